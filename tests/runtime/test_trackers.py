"""Trackers, with stand-ins that have the interface of each library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from objdsl.runtime.report.trackers import open_trackers
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import ConfigError

Run = Callable[..., Result]


class Dashboard(ModuleType):
    """The interface of `wandb` and `trackio`."""

    def __init__(self) -> None:
        super().__init__("dashboard")
        self.__spec__ = ModuleSpec("dashboard", None)  # libraries look for `wandb` by it
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append(("log", (step, metrics)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


class SummaryWriter:
    """The interface of `torch.utils.tensorboard`."""

    calls: list[Any] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int) -> None:
        self.calls[:] = [(Path(folder).name, purge_step)]

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def close(self) -> None:
        self.calls.append("closed")


def test_every_tracker_gets_the_metrics_of_a_run(
    run: Run, numbers: Callable[[Path], list[dict[str, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboards = {name: Dashboard() for name in ("wandb", "trackio")}
    for name, module in dashboards.items():
        monkeypatch.setitem(sys.modules, name, module)
    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, board.__name__, board)
    trackers = ["wandb", "trackio", "tensorboard"]
    result = run("grpo", report__trackers=trackers)
    written = numbers(result.folder)
    for module in dashboards.values():
        (first, options), *logged, (last, _) = module.calls
        assert (first, last) == ("init", "finish")
        assert options["project"] == "objdsl"
        assert options["config"]["objective"] == "grpo"
        assert [step for _, (step, _) in logged] == [0, 1, 2, 3, 4]
        for row, (_, (step, metrics)) in zip(written, logged, strict=True):
            assert row == {"step": step, **{k: x for k, x in metrics.items() if "second" not in k}}
    assert SummaryWriter.calls[0] == ("tensorboard", 1)
    assert ("held_out", result.after, 4) in SummaryWriter.calls
    assert SummaryWriter.calls[-1] == "closed"
    first_id = dashboards["wandb"].calls[0][1]["id"]
    run("grpo", steps=6, report__trackers=trackers, _resume="auto")
    again = [call for name, call in dashboards["wandb"].calls if name == "init"][1]
    assert (again["id"], again["resume"]) == (first_id, "allow")
    assert SummaryWriter.calls[0] == ("tensorboard", 5)


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        open_trackers(["wandb"], tmp_path, {}, 0)
