"""A run that takes a second, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from objdsl.runtime.run.loop import train
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config
from objdsl.runtime.settings.config_io import read_config

# The smallest run that uses every part except vLLM.
SMALL: dict[str, Any] = {
    "steps": 4,
    "model.layers": 1,
    "model.width": 16,
    "model.heads": 2,
    "task.digits": 1,
    "task.held_out": 8,
    "sampler.engine": "transformers",
    "sampler.prompts": 4,
    "sampler.group": 4,
    "rewards": {"helpers.reward_functions:even": 1.0},
    "warm_start.steps": 2,
    "warm_start.batch": 4,
    "report.curves": False,
    "evaluation.every": 2,
    "report.samples_every": 2,
    "checkpoint.every": 2,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """`settings("grpo", steps=2, **{"learner.lr": 1e-3})`: the small run with some differences."""

    def make(objective: str = "dr_grpo", **given: Any) -> Config:
        given = {name.replace("__", "."): value for name, value in given.items()}
        given.setdefault("output", tmp_path / "run")
        return read_config(None, (), {"objective": objective, **SMALL, **given})

    return make


@pytest.fixture
def run(settings: Callable[..., Config]) -> Callable[..., Result]:
    """Trains the small run; keyword arguments of `train` begin with an underscore."""

    def go(objective: str = "dr_grpo", **given: Any) -> Result:
        options = {name[1:]: given.pop(name) for name in list(given) if name.startswith("_")}
        options.setdefault("console", Console(file=StringIO()))
        return train(settings(objective, **given), **options)

    return go


@pytest.fixture
def numbers() -> Callable[[Path], list[dict[str, float]]]:
    """The metrics of a run, without durations."""

    def read(folder: Path) -> list[dict[str, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines]
        return [{k: x for k, x in step.items() if "second" not in k} for step in steps]

    return read
