"""The work of the two processes of tests/runtime/test_following.py."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import save_file

from helpers.two_processes import group_of_two
from objdsl.runtime.engines.batch import Batch, Rows
from objdsl.runtime.learning.learner import Learned, Learner
from objdsl.runtime.processes.ranks import full_tensor
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config


def path(folder: Path, rank: int, step: int, name: str) -> Path:
    return folder / f"{name}-{step}-of-rank-{rank}.safetensors"


def work(rank: int, folder: Path, settings: dict[str, Any]) -> None:
    """Trains, and saves this rank's part of each policy after each rollout."""
    learn = Learner.learn

    def recorded(self: Learner, batch: Batch, step: int, rows: Rows | None = None) -> Learned:
        learned = learn(self, batch, step, rows)
        named = self.policy.model.named_parameters()
        trained = {name: full_tensor(x.detach()).clone() for name, x in named}
        for name, weights in (self.following.weights() | {"pi": trained}).items():
            copied = {key: x.clone() for key, x in weights.items()}  # some share their storage
            save_file(copied, path(folder, rank, step, name))
        return learned

    Learner.learn = recorded  # type: ignore[method-assign]
    with group_of_two(rank, folder):
        train(Config.model_validate(settings), console=Console(file=StringIO()))
