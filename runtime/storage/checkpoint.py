"""Checkpoints: everything that a run needs to resume as if it had never stopped.

A checkpoint is a `sealed_folder`; once it has been verified, older ones are removed. Nothing else
is ever deleted: damaged checkpoints, and those of later steps than the one that a run resumes from,
are renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objdsl.frozen import dataclass
from objdsl.runtime.data.pretrained import pretrained
from objdsl.runtime.engines.critic import ValueModel
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.report.metrics import News
from objdsl.runtime.settings.config import ConfigError
from objdsl.runtime.storage import random_state
from objdsl.runtime.storage.sealed_folder import (
    DAMAGED,
    LEFT,
    MANIFEST,
    VERSION,
    CheckpointError,
    DamagedError,
    check_files,
    read_json,
    reading,
    remove,
    written_beside,
)
from objdsl.step.states import States

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX = "step-"
STATE = "state.json"
TRAINER = "trainer.pt"
CRITIC = "critic.safetensors"
# The folder of a critic that is a network of its own, as transformers reads it.
VALUE_MODEL = "critic"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint and the run that resumes from it must have in common."""

    objective: str
    task: str
    model: str

    def differences(self, other: Identity) -> list[str]:
        run, saved = asdict(self), asdict(other)
        return [
            f"{name}: the checkpoint has {saved[name]}, this run {run[name]}"
            for name in run
            if run[name] != saved[name]
        ]


@dataclass(frozen=True, slots=True)
class Progress:
    """The position of a run.

    Attributes:
        step: the number of steps that are done.
        position: the number of prompts taken from the task's order.
        seconds: the duration of training so far, for the log.
        states: what the objective remembers.
        unreported: the metrics of the last step, if the run ended before they were written.
        skipped: see `Learner.skipped`.
    """

    step: int
    position: int
    seconds: float
    states: States = States()
    unreported: News | None = None
    skipped: tuple[int, ...] = ()

    @staticmethod
    def read(state: Mapping[str, Any]) -> Progress:
        """The inverse of `asdict`. Raises TypeError or KeyError for anything else."""
        news = state.get("unreported")
        states = States.from_state_dict(state.get("states", {}))
        news = None if news is None else News.read(news)
        skipped = tuple(state.get("skipped", ()))
        return Progress(**{**state, "states": states, "unreported": news, "skipped": skipped})


# --- writing -------------------------------------------------------------------------------------


def save(
    folder: Path,
    progress: Progress,
    identity: Identity,
    config: Mapping[str, Any],
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: Mapping[str, Any],
    following: Mapping[str, Mapping[str, Tensor]],
    *,
    keep: int,
) -> Path:
    """Writes `folder/step-000100`, completely or not at all, and removes all but the `keep` newest.

    The weights are a Hugging Face folder: `from_pretrained` reads it. It does not depend on the
    number of ranks.

    Args:
        policy: with full weights.
        optimizer: the state with full tensors; see `Optimizer.state`.
        following: the weights of policies that follow the trained one, by name.

    Raises SaveError where it cannot be written; earlier ones are unchanged.
    """
    target = folder / f"{PREFIX}{progress.step:06d}"
    with written_beside(target) as writing:
        save_model(policy, tokenizer, writing)
        _save_critic(policy, tokenizer, writing)
        for name, weights in following.items():
            save_file({k: x.contiguous() for k, x in weights.items()}, writing / _follower(name))
        torch.save({"optimizer": optimizer, "rng": random_state.capture()}, writing / TRAINER)
        state = {
            "version": VERSION,
            "progress": asdict(progress),
            "identity": asdict(identity),
            "config": config,
        }
        (writing / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in all_of(folder)[:-keep]:
        remove(old)
    return target


def _follower(name: str) -> str:
    return f"policy-{name}.safetensors"


def save_model(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The weights as a Hugging Face folder."""
    policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_critic(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    match policy.critic:
        case ValueModel(model=model):
            model.save_pretrained(folder / VALUE_MODEL)
            tokenizer.save_pretrained(folder / VALUE_MODEL)
        case nn.Linear() as head:
            save_file(dict(head.state_dict()), folder / CRITIC)


# --- finding ------------------------------------------------------------------------------------


def all_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, complete or not, oldest first."""
    numbered = {}
    for path in folder.glob(f"{PREFIX}*"):
        if re.fullmatch(r"\d+", path.name.removeprefix(PREFIX)):
            numbered[int(path.name.removeprefix(PREFIX))] = path
    return [numbered[step] for step in sorted(numbered)]


def after(folder: Path, step: int) -> list[Path]:
    """The checkpoints of steps after `step`."""
    return [path for path in all_of(folder) if int(path.name.removeprefix(PREFIX)) > step]


def ever(folder: Path) -> list[Path]:
    """All checkpoints, also those that were renamed because they are damaged or of later steps."""
    aside = [*folder.glob(f"{DAMAGED}{PREFIX}*"), *folder.glob(f"{LEFT}{PREFIX}*")]
    return [*all_of(folder), *sorted(aside)]


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint, before its tensors are read.

    Attributes:
        note: a remark for the user, or an empty string.
    """

    path: Path
    progress: Progress
    identity: Identity
    config: Mapping[str, Any]
    note: str = ""

    def restore(self, policy: Policy) -> Mapping[str, Any]:
        """Loads the weights in place. Returns the states of `optimizer` and generators (`rng`).

        A critic that is a network of its own has been loaded already, from `value_model`.

        Raises CheckpointError where the weights do not fit the policy.
        """
        try:
            stored, _ = pretrained(str(self.path))
        except ConfigError as error:
            raise CheckpointError(str(error)) from None
        _load(policy.model, stored.state_dict(), self.path)
        if isinstance(policy.critic, nn.Linear):
            if (self.path / VALUE_MODEL).is_dir():
                raise CheckpointError(
                    f"the critic of {self.path} is a network of its own: set learner.critic to "
                    "`model`"
                )
            with reading(self.path, CRITIC):
                critic = load_file(self.path / CRITIC)
            _load(policy.critic, critic, self.path)
        return _trainer(self.path)

    @property
    def value_model(self) -> Path:
        """The folder of a critic that is a network of its own.

        Raises CheckpointError where there is none.
        """
        folder = self.path / VALUE_MODEL
        if not folder.is_dir():
            raise CheckpointError(
                f"{self.path} has no critic that is a network of its own: set learner.critic to "
                "`head`"
            )
        return folder

    def restore_follower(self, name: str, policy: Policy) -> None:
        """Loads the weights of a policy that follows the trained one.

        Raises CheckpointError where they are not there, or do not fit.
        """
        with reading(self.path, _follower(name)):
            weights = load_file(self.path / _follower(name))
        parameters = dict(policy.model.named_parameters())
        if {k: x.shape for k, x in weights.items()} != {k: x.shape for k, x in parameters.items()}:
            raise CheckpointError(f"the policy `{name}` of {self.path} does not fit this model")
        with torch.no_grad():
            for key, x in weights.items():
                parameters[key].copy_(x)


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    current = module.state_dict()
    for name in current.keys() | state.keys():
        here, there = (list(x[name].shape) if name in x else None for x in (current, state))
        if here != there:
            raise CheckpointError(
                f"the weights of {path} do not fit this model: `{name}` is "
                f"{there or 'not in them'}, and {here or 'nothing'} in the model"
            )
    module.load_state_dict({name: x.to(current[name].dtype) for name, x in state.items()})


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest complete checkpoint of a run, and the damaged ones that are newer."""

    saved: Saved | None
    damaged: tuple[DamagedError, ...]


def find(folder: Path) -> Newest:
    """The newest complete checkpoint in a folder of checkpoints. Changes nothing.

    Raises CheckpointError for files without read permission.
    """
    damaged: list[DamagedError] = []
    for path in reversed(all_of(folder)):
        try:
            return Newest(inspect(path), tuple(damaged))
        except DamagedError as error:
            damaged.append(error)
    return Newest(None, tuple(damaged))


def inspect(path: Path) -> Saved:
    """A checkpoint, after verifying its files.

    Raises:
        DamagedError: a file has changed.
        CheckpointError: it was written by a later version, or cannot be read.
    """
    state = read_json(path, STATE)
    version = state.get("version", 1)
    note = ""
    if version != 1 or (path / MANIFEST).exists():
        check_files(path)
        if version != VERSION:
            raise CheckpointError(f"{path} was written by a later version ({version!r})")
    else:
        _check_readable(path)
        note = (
            f"{path} was written without a manifest: whether its files have changed since then is "
            "not known"
        )
    try:
        return Saved(
            path,
            Progress.read(state["progress"]),
            Identity(**state["identity"]),
            dict(state["config"]),
            note,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(path, f"{STATE} is not the state of a run: {error}") from None


def _check_readable(folder: Path) -> None:
    """Checks that a run can resume from files without a manifest: all can be read."""
    read_json(folder, "config.json")
    tensors = [*folder.glob("*.safetensors")]
    if not any(path.name != CRITIC for path in tensors):
        raise DamagedError(folder, "model.safetensors is missing")
    for path in tensors:
        with reading(folder, path.name), safe_open(path, framework="pt") as file:
            file.keys()
    _trainer(folder)


def _trainer(folder: Path) -> Mapping[str, Any]:
    with reading(folder, TRAINER):
        trainer: Mapping[str, Any] = torch.load(
            folder / TRAINER, map_location="cpu", weights_only=True
        )
        if {"rng", "optimizer"} - trainer.keys():
            raise ValueError("it is not the state of a training run")
        return trainer
