"""The work of the two processes of tests/runtime/test_skipped.py."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from helpers.two_processes import group_of_two
from objdsl.runtime.engines.batch import Batch, Rows
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.learning.learner import Learned, Learner
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config


def work(rank: int, folder: Path, runs: list[tuple[str, dict[str, Any]]]) -> None:
    """Trains, with something that is not finite on the second rank alone in the second rollout, and
    writes why this rank skipped a step."""
    learn, columns = Learner.learn, Policy.columns
    now, kind = 0, ""
    reasons: list[str] = []

    def learning(self: Learner, batch: Batch, step: int, rows: Rows | None = None) -> Learned:
        nonlocal now
        now = step
        learned = learn(self, batch, step, rows)
        reasons.extend(learned.skipped)
        return learned

    def spoiled(self: Policy, batch: Batch, wanted: Any) -> dict[str, torch.Tensor]:
        values = dict(columns(self, batch, wanted))
        x = values.get("log_pi")
        if now == 1 and rank == 1 and x is not None and x.requires_grad:
            if kind == "policy":
                values["log_pi"] = x * torch.nan
            else:
                x.register_hook(lambda gradient: gradient * torch.inf)
        return values

    Learner.learn = learning  # type: ignore[method-assign]
    Policy.columns = spoiled  # type: ignore[method-assign,assignment]
    with group_of_two(rank, folder):
        for kind, settings in runs:  # noqa: B007
            train(Config.model_validate(settings), console=Console(file=StringIO()))
    (folder / f"reasons-{rank}.json").write_text(json.dumps(reasons), encoding="utf-8")
