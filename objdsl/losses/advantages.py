"""The advantages of a step, for losses that are given them."""

from __future__ import annotations

import torch
from torch import Tensor

from objdsl.errors import InputError
from objdsl.ir.columns import Column
from objdsl.losses.batch import ADVANTAGE, Batch
from objdsl.losses.loss import LossError
from objdsl.objective import Objective
from objdsl.step.values import Values

NAME = "A"
"""What objectives call their advantage."""


class Advantages:
    """What an objective calls `A`.

    Args:
        name: the objective, as it was given.

    Raises:
        LossError: it has no such definition, or it changes with the policy that is trained.
    """

    def __init__(self, name: str, objective: Objective) -> None:
        formula = objective.formula
        named = {binding.name: binding.value for binding in formula.bindings}
        if NAME not in named or named[NAME].current:
            raise LossError(
                f"{objective.name} defines no advantage `{NAME}` from the data alone: name an "
                "objective that does, as in `--advantages grpo`"
            )
        self.name = name
        self._values = Values(formula, {ADVANTAGE: named[NAME]}, objective.params)
        self.columns: dict[str, Column] = dict(self._values.prepare.columns)

    def __call__(self, batch: Batch) -> Tensor:
        """`[N, T]`, 0 in the padding."""
        columns = {name: batch.columns[name] for name in self.columns}
        try:
            step = self._values.prepare(
                prompt=batch.prompt, mask=batch.mask, dtype=torch.float64, columns=columns
            )
        except InputError as error:
            raise LossError(f"the advantages of {self.name}: {error}") from error
        advantages = self._values(step, torch.float64)[ADVANTAGE]
        return torch.where(batch.mask, advantages, 0.0)
