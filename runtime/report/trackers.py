"""Trackers: metrics go to TensorBoard, Weights & Biases or Trackio, besides `metrics.jsonl`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from objdsl.runtime.settings.config import ConfigError

PROJECT = "objdsl"


class Tracker(Protocol):
    """Receives the metrics of a run step by step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the metrics of step `step`."""

    def close(self) -> None:
        """Flushes and closes."""


class _TensorBoard:
    """Event files in the folder of the run."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run repeats the steps after its checkpoint: the old ones are purged.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Project:
    """A run of the project `objdsl` in Weights & Biases, or a library with its interface."""

    def __init__(self, module: str, options: Mapping[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._module.init(project=PROJECT, **options)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


def open_trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], step: int
) -> list[Tracker]:
    """The trackers that the settings name, for a run that has done `step` steps.

    A resumed run continues in its trackers: its folder identifies it.

    Raises ConfigError for a tracker that is not installed.
    """
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    name = f"{folder.name}-{digest[:4]}"
    makers: dict[str, Any] = {
        "tensorboard": lambda: _TensorBoard(folder, step),
        "wandb": lambda: _Project(
            "wandb",
            {"name": folder.name, "id": digest, "dir": str(folder), "config": dict(config)}
            | {"resume": "allow"},
        ),
        "trackio": lambda: _Project(
            "trackio", {"name": name, "config": dict(config), "resume": "allow"}
        ),
    }
    opened: list[Tracker] = []
    for tracker in dict.fromkeys(names):
        try:
            opened.append(makers[tracker]())
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != tracker:
                raise
            raise ConfigError(
                [f"report.trackers: {tracker} is not installed: pip install {tracker}"]
            ) from None
    return opened
