"""The folder of a run: which one, and whether the run that it holds may be gone on with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objdsl.frozen import dataclass
from objdsl.runtime import checkpoint
from objdsl.runtime.checkpoint import CheckpointError, Saved
from objdsl.runtime.config import Config, ConfigError
from objdsl.runtime.report import METRICS

ROOT = Path("runs")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run writes, and the checkpoint that it goes on from, if any."""

    path: Path
    saved: Saved | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def open_folder(config: Config, objective: str, resume: str | None) -> RunFolder:
    """The folder of a run.

    Args:
        objective: the objective's name, which an unnamed folder is called by.
        resume: None for a new run; `auto` for the newest run of that name, or a new one where there
            is none; else the path of a run or of a checkpoint.

    Raises ConfigError for a new run into a folder that holds one, CheckpointError for a path
    without a checkpoint.
    """
    if resume is None:
        path = config.output or _unused(ROOT / objective)
        if (path / METRICS).exists():
            raise ConfigError(
                [
                    f"{path} holds a run already; go on with it by "
                    f"`--resume {shlex.quote(str(path))}`, or choose another `--output`"
                    if checkpoint.all_of(path / "checkpoints")
                    else f"{path} holds a run that ended before its first checkpoint; begin it "
                    "again by `--resume auto`, or choose another `--output`"
                ]
            )
        return RunFolder(path)
    if resume != AUTO:
        saved = checkpoint.find(Path(resume))
        return RunFolder(saved.path.parent.parent, saved)
    candidates = [config.output] if config.output else _numbered(ROOT / objective)[::-1]
    for path in candidates:
        try:
            return RunFolder(path, checkpoint.find(path))
        except CheckpointError:
            continue
    if config.output is not None:  # it began, and stopped before its first checkpoint
        (config.output / METRICS).unlink(missing_ok=True)
    return RunFolder(config.output or _unused(ROOT / objective))


def _numbered(path: Path) -> list[Path]:
    """`runs/grpo`, `runs/grpo-2`, ..., as far as they exist, in the order of their numbers."""
    pattern = re.compile(re.escape(path.name) + r"(?:-(\d+))?")
    found = {}
    for other in path.parent.glob(f"{path.name}*"):
        match = pattern.fullmatch(other.name)
        if match:
            found[int(match[1] or 1)] = other
    return [found[number] for number in sorted(found)]


def _unused(path: Path) -> Path:
    if not path.exists():
        return path
    number = 2
    while (numbered := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return numbered


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
