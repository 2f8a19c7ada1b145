"""What a run needs to go on as if it had never stopped, and whether all of it is there.

A checkpoint is written beside the others, put on the disk, described by a manifest, renamed, and
read back; only then are older ones removed. Nothing else is ever deleted: what is damaged, or was
left behind by a run that went back, is renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objdsl.errors import ObjdslError
from objdsl.files import sync_folder
from objdsl.frozen import dataclass
from objdsl.runtime.config import ConfigError
from objdsl.runtime.models import Policy, pretrained
from objdsl.runtime.report import News

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX = "step-"
DAMAGED = "damaged-"
LEFT = "left-"
MANIFEST = "manifest.json"
STATE = "state.json"
TRAINER = "trainer.pt"
CRITIC = "critic.safetensors"

# Folders under these names are nobody's: half written, or half removed, when a run was killed.
_WRITING = ".writing-"
_REMOVING = ".removing-"
# Checkpoints of version 1 have no manifest, and do not say which version they are.
_VERSION = 2
# What transformers might read although nobody wrote it with the rest.
_READ = frozenset({".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors", ".txt"})


class CheckpointError(ObjdslError, RuntimeError):
    """A checkpoint that cannot be gone on from."""


class SaveError(CheckpointError, OSError):
    """A checkpoint that cannot be written. Those that were there are as they were."""


class DamagedError(CheckpointError):
    """A folder that is not what was written.

    Attributes:
        path: the folder.
        damage: the file, and what is wrong with it.
    """

    def __init__(self, path: Path, damage: str) -> None:
        self.path = path
        self.damage = damage
        super().__init__(f"{path} is damaged: {damage}")


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
        unreported: of the last of these steps, where the run ended before it was written.
    """

    step: int
    position: int
    seconds: float
    unreported: News | None = None

    @staticmethod
    def read(state: Mapping[str, Any]) -> Progress:
        """From what `asdict` made of it. Raises TypeError or KeyError where it is another thing."""
        news = state.get("unreported")
        return Progress(**{**state, "unreported": None if news is None else News.read(news)})


# --- writing -------------------------------------------------------------------------------------


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

    Raises SaveError where it cannot be written; the older ones are as they were.
    """
    target = folder / f"{PREFIX}{progress.step:06d}"
    with written_beside(target) as writing:
        save_model(policy, tokenizer, writing)
        torch.save({"optimizer": optimizer, "rng": _rng()}, writing / TRAINER)
        state = {
            "version": _VERSION,
            "progress": asdict(progress),
            "identity": asdict(identity),
            "config": config,
        }
        (writing / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in all_of(folder)[:-keep]:
        _remove(old)
    return target


def save_model(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The weights as a Hugging Face folder, and the critic beside them."""
    policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if policy.critic is not None:
        save_file(dict(policy.critic.state_dict()), folder / CRITIC)


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `target` once it is whole, with a manifest.

    A `target` that exists is replaced: it is removed after the new one was read back.

    Raises SaveError where the folder cannot be written; then nothing of it is left.
    """
    writing = target.with_name(f"{_WRITING}{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        yield writing
        _seal(writing)
        old = set_aside(target, LEFT) if target.exists() else None
        os.rename(writing, target)
        sync_folder(target.parent)
        check_files(target)
        if old is not None:
            _remove(old)
    except Exception as error:  # the libraries that write have classes of their own
        shutil.rmtree(writing, ignore_errors=True)
        if isinstance(error, DamagedError):
            with suppress(OSError):
                set_aside(target, DAMAGED)
        raise SaveError(
            f"{target} cannot be written: {_reason(error)}; what was written before is as it was"
        ) from error
    except BaseException:  # a second Ctrl-C
        shutil.rmtree(writing, ignore_errors=True)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, DamagedError):
        return error.damage
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _seal(folder: Path) -> None:
    """Puts all files of a folder on the disk, and writes the manifest of them."""
    files: dict[str, dict[str, Any]] = {}
    for path in _files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": digest,
        }
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        json.dump({"version": _VERSION, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_folder(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    """Removes a folder; a kill meanwhile leaves no half of it under its name."""
    going = folder.with_name(f"{_REMOVING}{folder.name}")
    with suppress(OSError):
        os.rename(folder, going)
        shutil.rmtree(going)


def set_aside(path: Path, prefix: str) -> Path:
    """Renames a folder, so that nobody takes it for what it is not; its new path."""
    number, other = 1, path.with_name(f"{prefix}{path.name}")
    while other.exists():
        number += 1
        other = path.with_name(f"{prefix}{path.name}-{number}")
    os.rename(path, other)
    sync_folder(path.parent)
    return other


def sweep(folder: Path) -> None:
    """Frees what a killed run was writing or removing."""
    for path in folder.glob(".*"):
        if path.name.startswith((_WRITING, _REMOVING)):
            shutil.rmtree(path, ignore_errors=True)


# --- what there is -------------------------------------------------------------------------------


def all_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, oldest first."""
    numbered = {}
    for path in folder.glob(f"{PREFIX}*"):
        if re.fullmatch(r"\d+", path.name.removeprefix(PREFIX)):
            numbered[int(path.name.removeprefix(PREFIX))] = path
    return [numbered[step] for step in sorted(numbered)]


def after(folder: Path, step: int) -> list[Path]:
    """The checkpoints of steps after `step`."""
    return [path for path in all_of(folder) if int(path.name.removeprefix(PREFIX)) > step]


def ever(folder: Path) -> list[Path]:
    """All that was once a checkpoint: those in use, damaged ones, and those left behind."""
    aside = [*folder.glob(f"{DAMAGED}{PREFIX}*"), *folder.glob(f"{LEFT}{PREFIX}*")]
    return [*all_of(folder), *sorted(aside)]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was found whole, before its tensors are read.

    Attributes:
        note: what people should know of it, or nothing.
    """

    path: Path
    progress: Progress
    identity: Identity
    config: Mapping[str, Any]
    note: str = ""

    def restore(self, policy: Policy) -> Mapping[str, Any]:
        """Puts weights back, in place. Returns the states of `optimizer` and generators (`rng`).

        Raises CheckpointError where the weights are not those of such a policy.
        """
        try:
            stored, _ = pretrained(str(self.path))
        except ConfigError as error:
            raise CheckpointError(str(error)) from None
        _load(policy.model, stored.state_dict(), self.path)
        if policy.critic is not None:
            with _reading(self.path, CRITIC):
                critic = load_file(self.path / CRITIC)
            _load(policy.critic, critic, self.path)
        return _trainer(self.path)


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
class Found:
    """The newest whole checkpoint of a run, and the damaged ones that are newer."""

    saved: Saved | None
    damaged: tuple[DamagedError, ...]


def find(folder: Path) -> Found:
    """Looks for the newest whole checkpoint in a folder of checkpoints. Changes nothing.

    Raises CheckpointError for files that may not be read.
    """
    damaged: list[DamagedError] = []
    for path in reversed(all_of(folder)):
        try:
            return Found(inspect(path), tuple(damaged))
        except DamagedError as error:
            damaged.append(error)
    return Found(None, tuple(damaged))


def inspect(path: Path) -> Saved:
    """A checkpoint, all of whose files are as they were written.

    Raises:
        DamagedError: a file is not.
        CheckpointError: it is one of a later version, or may not be read.
    """
    state = _json(path, STATE)
    version = state.get("version", 1)
    note = ""
    if version != 1 or (path / MANIFEST).exists():
        check_files(path)
        if version != _VERSION:
            raise CheckpointError(f"{path} was written by a later version ({version!r})")
    else:
        _check_readable(path)
        note = (
            f"{path} was written without a manifest: whether all its files are as they were "
            "written is not known"
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


def check_files(folder: Path) -> None:
    """Compares all files of a folder with its manifest.

    Raises:
        DamagedError: names the first file that is missing, or another one than was written.
        CheckpointError: a file may not be read.
    """
    files = _json(folder, MANIFEST).get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedError(folder, f"{MANIFEST} lists no files")
    for name, entry in files.items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            raise DamagedError(folder, f"{MANIFEST} says nothing of {name}")
        with _reading(folder, name), open(folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == entry["bytes"]:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        if size == 0 and entry["bytes"]:
            raise DamagedError(folder, f"{name} is empty")
        if size != entry["bytes"]:
            raise DamagedError(
                folder, f"{name} has {size} bytes, and had {entry['bytes']} when it was written"
            )
        if digest != entry["sha256"]:
            raise DamagedError(
                folder, f"the content of {name} is not what was written (its SHA-256 differs)"
            )
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in files and name != MANIFEST and path.suffix in _READ:
            raise DamagedError(folder, f"{name} was not written with it")


def _check_readable(folder: Path) -> None:
    """Without a manifest: whether the files that a run goes on from can be read at all."""
    _json(folder, "config.json")
    tensors = [*folder.glob("*.safetensors")]
    if not any(path.name != CRITIC for path in tensors):
        raise DamagedError(folder, "model.safetensors is missing")
    for path in tensors:
        with _reading(folder, path.name), safe_open(path, framework="pt") as file:
            file.keys()
    _trainer(folder)


def _json(folder: Path, name: str) -> dict[str, Any]:
    with _reading(folder, name):
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise DamagedError(folder, f"{name} is not what was written")
    return found


def _trainer(folder: Path) -> Mapping[str, Any]:
    with _reading(folder, TRAINER):
        trainer: Mapping[str, Any] = torch.load(
            folder / TRAINER, map_location="cpu", weights_only=True
        )
        if {"rng", "optimizer"} - trainer.keys():
            raise ValueError("it is not the state of a training run")
        return trainer


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    """Whatever goes wrong with a file that is read is damage of that file."""
    try:
        yield
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from None
    except FileNotFoundError:
        raise DamagedError(folder, f"{name} is missing") from None
    except Exception as error:  # each library has classes of its own
        raise DamagedError(folder, f"{name} cannot be read: {_reason(error)}") from None


# --- random generators ---------------------------------------------------------------------------


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


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the global generators back to where they were; `rng` of what `Saved.restore` returns."""
    kind, numbers, *rest = state["python"]
    random.setstate((kind, tuple(numbers), *rest))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
