"""What a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objdsl.frozen import dataclass
from objdsl.runtime.models import Policy, pretrained
from objdsl.runtime.ranks import spread_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX = "step-"
TEMPORARY = ".writing-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be gone on from."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What has to be the same for a resumed run to be the same run."""

    objective: str
    task: str
    model: str

    def differences(self, other: Identity) -> list[str]:
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the checkpoint has {theirs[name]}, this run {mine[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: steps that are done.
        position: prompts that were taken from the task's order.
        seconds: of training so far, for the log.
    """

    step: int
    position: int
    seconds: float


def save(
    folder: Path,
    progress: Progress,
    identity: Identity,
    config: Mapping[str, Any],
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Writes `folder/step-000100`, whole or not at all, and drops all but the `keep` newest.

    The weights are a Hugging Face folder: `from_pretrained` reads it. On how many ranks it was made
    leaves no trace.

    Args:
        policy: with its weights in one place.
        optimizer: its state, in one place too; see `Learner.state`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{progress.step:06d}"
    writing = folder / f"{TEMPORARY}{target.name}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    policy.model.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    if policy.critic is not None:
        save_file(dict(policy.critic.state_dict()), writing / "critic.safetensors")
    torch.save({"optimizer": optimizer, "rng": _rng()}, writing / "trainer.pt")
    state = {"progress": asdict(progress), "identity": asdict(identity), "config": config}
    (writing / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in writing.iterdir():
        _to_disk(path)
    if target.exists():  # a run that went back, and came here again
        shutil.rmtree(target)
    os.rename(writing, target)
    _to_disk(folder)
    for old in all_of(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def all_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def forget_after(folder: Path, step: int) -> None:
    """Drops the checkpoints of steps after `step`: a run that goes back makes its own."""
    for path in all_of(folder):
        if int(path.name.removeprefix(PREFIX)) > step:
            shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was found, before its tensors are read."""

    path: Path
    progress: Progress
    identity: Identity
    config: Mapping[str, Any]

    def restore(self, policy: Policy) -> Mapping[str, Any]:
        """Puts weights and random generators back, in place; the state of the optimizer.

        Collective: weights that are spread over ranks are spread again.
        """
        stored, _ = pretrained(str(self.path))
        _load(policy.model, stored.state_dict())
        if policy.critic is not None:
            _load(policy.critic, load_file(self.path / "critic.safetensors"))
        trainer = torch.load(self.path / "trainer.pt", map_location="cpu", weights_only=True)
        _set_rng(trainer["rng"])
        optimizer: Mapping[str, Any] = trainer["optimizer"]
        return optimizer


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    spread = {name: spread_as(x.to(own[name].dtype), own[name]) for name, x in state.items()}
    module.load_state_dict(spread)


def find(path: Path) -> Saved:
    """A checkpoint at `path`, or the newest of the run at `path`.

    Raises CheckpointError where there is none, or it cannot be read.
    """
    if not (path / "state.json").is_file():
        checkpoints = all_of(path / "checkpoints")
        if not checkpoints:
            raise CheckpointError(f"{path} holds no checkpoint")
        path = checkpoints[-1]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return Saved(
            path,
            Progress(**state["progress"]),
            Identity(**state["identity"]),
            state["config"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this version: {error}") from None


def _rng() -> dict[str, Any]:
    kind, numbers, *rest = random.getstate()
    name, keys, *numpy_rest = np.random.get_state(legacy=True)
    state = {
        "python": [kind, list(numbers), *rest],
        "numpy": [name, [int(key) for key in keys], *(float(x) for x in numpy_rest)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_rng(state: Mapping[str, Any]) -> None:
    kind, numbers, *rest = state["python"]
    random.setstate((kind, tuple(numbers), *rest))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
