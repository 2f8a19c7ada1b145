"""The folder of a run: which one, who writes to it, and what it holds to go on from."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objdsl.frozen import dataclass
from objdsl.runtime import checkpoint
from objdsl.runtime.checkpoint import CheckpointError, DamagedError, Saved
from objdsl.runtime.config import Config, ConfigError
from objdsl.runtime.lock import Lock
from objdsl.runtime.report import METRICS

ROOT = Path("runs")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run writes, and the checkpoint that it goes on from, if any.

    Attributes:
        path: absolute: where the process is later does not matter.
        damaged: checkpoints that are newer than `saved`, and not whole.
        began: whether an earlier run wrote here, and ended before its first checkpoint.
    """

    path: Path
    saved: Saved | None = None
    damaged: tuple[DamagedError, ...] = ()
    began: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def open_folder(config: Config, objective: str, resume: str | None) -> tuple[RunFolder, Lock]:
    """The folder of a run, and the right to write to it. Nothing in it is changed.

    Args:
        objective: the objective's name, which an unnamed folder is called by.
        resume: None for a new run; `auto` for the newest run of that name, or a new one where there
            is none; else the path of a run or of a checkpoint.

    Raises:
        ConfigError: for a new run into a folder that holds one, for a folder that another process
            writes to, and for a name that the file system does not take.
        CheckpointError: there is no whole checkpoint where there should be one.
    """
    try:
        return _open(config, objective, resume)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        what = "the path of the run" if config.output else f"the name {objective[:32]}..."
        raise ConfigError(
            [f"{what} is too long for a folder of this file system: choose another `--output`"]
        ) from None


def _open(config: Config, objective: str, resume: str | None) -> tuple[RunFolder, Lock]:
    if resume is None:
        return _new(config, objective)
    if resume != AUTO:
        return _named(Path(resume).absolute())
    candidates = [config.output] if config.output else _numbered(ROOT / objective)[::-1]
    for path in candidates:
        if _holds_run(path):
            lock = Lock(path.absolute())
            try:
                return _newest(path.absolute()), lock
            except BaseException:
                lock.release()
                raise
    return _new(config, objective)


def _new(config: Config, objective: str) -> tuple[RunFolder, Lock]:
    if config.output is None:
        return _unused((ROOT / objective).absolute())
    path = config.output.absolute()
    lock = Lock(path)
    if not _holds_run(path):
        return RunFolder(path), lock
    lock.release()
    raise ConfigError(
        [
            f"{path} holds a run already; go on with it by "
            f"`--resume {shlex.quote(str(path))}`, or choose another `--output`"
            if checkpoint.ever(path / "checkpoints")
            else f"{path} holds a run that ended before its first checkpoint; begin it again by "
            "`--resume auto` (what it measured is kept), or choose another `--output`"
        ]
    )


def _named(path: Path) -> tuple[RunFolder, Lock]:
    """The run at a path, or that of the checkpoint at a path."""
    if not re.fullmatch(rf"{checkpoint.PREFIX}\d+", path.name) or _holds_run(path):
        if not checkpoint.ever(path / "checkpoints"):
            raise CheckpointError(f"{path} holds no checkpoint")
        lock = Lock(path)
        try:
            return _newest(path), lock
        except BaseException:
            lock.release()
            raise
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint {path}")
    folder = path.parent.parent
    if path.parent.name != "checkpoints":
        raise CheckpointError(
            f"{path} is not in the folder of a run: a checkpoint is gone on from where it was "
            "written, as RUN/checkpoints/step-000100"
        )
    lock = Lock(folder)
    try:
        return RunFolder(folder, checkpoint.inspect(path)), lock
    except DamagedError as error:
        lock.release()
        raise CheckpointError(
            f"{error}; `--resume {shlex.quote(str(folder))}` goes on from the newest one that is "
            "whole"
        ) from None
    except BaseException:
        lock.release()
        raise


def _newest(path: Path) -> RunFolder:
    found = checkpoint.find(path / "checkpoints")
    if found.saved is not None:
        return RunFolder(path, found.saved, found.damaged)
    if checkpoint.ever(path / "checkpoints"):
        damage = "\n".join(f"  {error}" for error in found.damaged)
        raise CheckpointError(
            f"no checkpoint of {path} is whole, so the run cannot be gone on with; everything in "
            "it is kept as it is. Choose another `--output` to begin again"
            + (f":\n{damage}" if damage else "")
        )
    return RunFolder(path, began=True)


def _holds_run(path: Path) -> bool:
    return (path / METRICS).exists() or bool(checkpoint.ever(path / "checkpoints"))


def _numbered(path: Path) -> list[Path]:
    """`runs/grpo`, `runs/grpo-2`, ..., as far as they exist, in the order of their numbers."""
    pattern = re.compile(re.escape(path.name) + r"(?:-(\d+))?")
    found = {}
    for other in path.parent.glob(f"{path.name}*"):
        match = pattern.fullmatch(other.name)
        if match:
            found[int(match[1] or 1)] = other
    return [found[number] for number in sorted(found)]


def _unused(path: Path) -> tuple[RunFolder, Lock]:
    """The first of `runs/grpo`, `runs/grpo-2`, ... that is not there."""
    number, numbered = 1, path
    while True:
        if not numbered.exists():
            lock = Lock(numbered)
            if lock.made:  # and not by another process meanwhile
                return RunFolder(numbered), lock
            lock.release()
        number += 1
        numbered = path.with_name(f"{path.name}-{number}")


def changed_settings(config: Config, before: Mapping[str, Any]) -> list[str]:
    """`learner.lr: 1e-05 -> 1e-06` for every setting that is not as it was."""
    now, then = _flat(config.model_dump(mode="json")), _flat(before)
    return [
        f"{name}: {then.get(name)} -> {now.get(name)}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name) and name != "output"
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def shown(path: Path) -> str:
    """A path as people type it: without the folder that they are in."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)
