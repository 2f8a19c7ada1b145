"""The folder of a run: choosing and locking it, and what it contains to resume from."""

from __future__ import annotations

import errno
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objdsl import driver
from objdsl.files import replace_text
from objdsl.frozen import dataclass
from objdsl.runtime.report.metrics import METRICS, SAMPLES, forget_after
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.settings.config_io import config_yaml
from objdsl.runtime.storage import checkpoint, sealed_folder
from objdsl.runtime.storage.checkpoint import Identity, Progress, Saved
from objdsl.runtime.storage.lock import Lock
from objdsl.runtime.storage.sealed_folder import CheckpointError, DamagedError

ROOT = Path("runs")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run, and the checkpoint that it resumes from, if any.

    Attributes:
        path: an absolute path, as the process may change its working directory.
        damaged: damaged checkpoints that are newer than `saved`.
        began: whether an earlier run wrote here, but ended before its first checkpoint.
    """

    path: Path
    saved: Saved | None = None
    damaged: tuple[DamagedError, ...] = ()
    began: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def open_folder(config: Config, objective: str, resume: str | None) -> tuple[RunFolder, Lock]:
    """The folder of a run, locked. Nothing in it is changed.

    Args:
        objective: the name of the objective, which is the default name of the folder.
        resume: None for a new run; `auto` for the newest run of that name, or a new one where there
            is none; otherwise the path of a run or of a checkpoint.

    Raises:
        ConfigError: the folder of a new run already contains a run, a different process writes to
            it, or the file system does not accept its name.
        CheckpointError: there is no complete checkpoint where there should be one.
    """
    try:
        return _open(config, objective, resume)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        what = "the path of the run" if config.output else f"the name {objective[:32]}..."
        raise ConfigError(
            [f"{what} is too long for a folder of this file system: choose a different `--output`"]
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
            f"{path} holds a run already; resume it with "
            f"`--resume {shlex.quote(str(path))}`, or choose a different `--output`"
            if checkpoint.ever(path / "checkpoints")
            else f"{path} holds a run that ended before its first checkpoint; begin it again with "
            "`--resume auto` (what it measured is kept), or choose a different `--output`"
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
            f"{path} is not in the folder of a run: a checkpoint is resumed from where it was "
            "written, as RUN/checkpoints/step-000100"
        )
    lock = Lock(folder)
    try:
        return RunFolder(folder, checkpoint.inspect(path)), lock
    except DamagedError as error:
        lock.release()
        raise CheckpointError(
            f"{error}; `--resume {shlex.quote(str(folder))}` resumes from the newest complete one"
        ) from None
    except BaseException:
        lock.release()
        raise


def _newest(path: Path) -> RunFolder:
    newest = checkpoint.find(path / "checkpoints")
    if newest.saved is not None:
        return RunFolder(path, newest.saved, newest.damaged)
    if checkpoint.ever(path / "checkpoints"):
        damage = "\n".join(f"  {error}" for error in newest.damaged)
        raise CheckpointError(
            f"no checkpoint of {path} is complete, so the run cannot be resumed; everything in it "
            "is kept as it is. Choose a different `--output` to begin again"
            + (f":\n{damage}" if damage else "")
        )
    return RunFolder(path, began=True)


def _holds_run(path: Path) -> bool:
    return (path / METRICS).exists() or bool(checkpoint.ever(path / "checkpoints"))


def _numbered(path: Path) -> list[Path]:
    """The existing folders among `runs/grpo`, `runs/grpo-2`, ..., by number."""
    pattern = re.compile(re.escape(path.name) + r"(?:-(\d+))?")
    folders = {}
    for other in path.parent.glob(f"{path.name}*"):
        match = pattern.fullmatch(other.name)
        if match:
            folders[int(match[1] or 1)] = other
    return [folders[number] for number in sorted(folders)]


def _unused(path: Path) -> tuple[RunFolder, Lock]:
    """Creates the first of `runs/grpo`, `runs/grpo-2`, ... that does not exist."""
    number, numbered = 1, path
    while True:
        if not numbered.exists():
            lock = Lock(numbered)
            if lock.created_folder:  # and not another process in the meantime
                return RunFolder(numbered), lock
            lock.release()
        number += 1
        numbered = path.with_name(f"{path.name}-{number}")


# --- the checkpoint in it ----------------------------------------------------------------------


def compare(
    folder: RunFolder, identity: Identity, config: Config, allow_changed: bool
) -> list[str]:
    """Remarks on the checkpoint that a run resumes from.

    Raises CheckpointError where it belongs to a different run, or nothing is left to do.
    """
    saved = folder.saved
    if saved is None:
        return []
    notes = [f"resuming from {display_path(saved.path)}", *filter(None, [saved.note])]
    differences = identity.differences(saved.identity)
    if differences and not allow_changed:
        raise CheckpointError(
            "the checkpoint is of a different run (--allow-changed resumes from it nevertheless):\n"
            + "\n".join(f"  {line}" for line in differences)
        )
    steps = saved.progress.step
    if steps >= config.steps and (steps > config.steps or saved.progress.unreported is None):
        how_far = f"{steps} of {config.steps} steps"
        if steps > config.steps:
            how_far = f"{steps} steps, and this run is one of {config.steps}"
        raise CheckpointError(
            f"{saved.path} has done {how_far}: there is nothing left to do; "
            f"`--steps {steps + config.steps}` would add more"
        )
    changed = [*differences, *changed_settings(config, saved.config)]
    return notes + [f"changed since then: {line}" for line in changed]


def changed_settings(config: Config, before: Mapping[str, Any]) -> list[str]:
    """`learner.lr: 1e-05 -> 1e-06` for every setting that has changed."""
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


# --- writing to it ------------------------------------------------------------------------------


def begin_folder(folder: RunFolder, config: Config, start: Progress) -> list[str]:
    """Prepares the folder for this run: files of earlier runs are replaced or renamed.

    Returns remarks for the user.
    """
    notes = []
    sealed_folder.sweep(folder.checkpoints)
    for error in folder.damaged:
        aside = sealed_folder.set_aside(error.path, sealed_folder.DAMAGED)
        notes.append(f"{error}; it is kept as {aside.name}")
    for path in checkpoint.after(folder.checkpoints, start.step):
        aside = sealed_folder.set_aside(path, sealed_folder.LEFT)
        notes.append(f"{path} is of a later step; it is kept as {aside.name}")
    if folder.began:
        notes.append(
            f"{folder.path} holds a run that ended before its first checkpoint: it begins again"
        )
    # A step that was not reported is reported again.
    last = -1 if folder.began else start.step if start.unreported is None else start.step - 1
    forget_after(folder.path, last)
    for name, text in (
        ("config.yaml", config_yaml(config)),
        ("objective.obj", driver.read(config.objective).text),
    ):
        try:
            replace_text(folder.path / name, text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder.path / name)) from None
    return notes


def forget_false_start(
    folder: RunFolder, kind: type[BaseException] | None, error: object, trace: object
) -> None:
    """Removes the files of a run that failed before its first metric, so that it can start again.

    The log of an engine stays, because it shows why.
    """
    metrics = folder.path / METRICS
    if kind is None or folder.saved is not None or folder.began:
        return
    if not metrics.exists() or metrics.stat().st_size or checkpoint.ever(folder.checkpoints):
        return
    for name in (METRICS, SAMPLES, "config.yaml", "objective.obj"):
        (folder.path / name).unlink(missing_ok=True)
    shutil.rmtree(folder.path / "ref", ignore_errors=True)


def display_path(path: Path) -> str:
    """A path relative to the working directory if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)
