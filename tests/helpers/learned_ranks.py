"""The work of the two processes of tests/runtime/test_learned.py."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from helpers.two_processes import group_of_two
from objdsl.runtime.engines.batch import Batch, Rows
from objdsl.runtime.learning.learner import Learned, Learner
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config


def path(folder: Path, rank: int) -> Path:
    return folder / f"learned-of-rank-{rank}.json"


def work(rank: int, folder: Path, settings: dict[str, Any]) -> None:
    """Trains, and writes what this rank has of each learned number after each rollout."""
    learn = Learner.learn
    numbers: list[dict[str, str]] = []

    def recorded(self: Learner, batch: Batch, step: int, rows: Rows | None = None) -> Learned:
        learned = learn(self, batch, step, rows)
        numbers.append({name: x.hex() for name, x in learned.numbers.items()})
        return learned

    Learner.learn = recorded  # type: ignore[method-assign]
    with group_of_two(rank, folder):
        train(Config.model_validate(settings), console=Console(file=StringIO()))
    path(folder, rank).write_text(json.dumps(numbers), encoding="utf-8")
