"""Whether a loss can be computed on micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from objdsl.frozen import dataclass
from objdsl.losses.batch import Batch
from objdsl.losses.loss import Evaluation, Loss, LossError

Unit = Literal["responses", "prompts"]


@dataclass(frozen=True)
class Split:
    """What the gradients of micro-batches add up to.

    Attributes:
        unit: what micro-batches are made of.
        sums: whether their sum is the gradient of the whole step.
        means: whether their mean is, if all have equally many responses.
    """

    unit: Unit
    sums: bool
    means: bool

    def __str__(self) -> str:
        if self.sums:
            return f"micro-batches of any {self.unit} add up to the whole step"
        if self.means:
            return (
                f"the mean of micro-batches is the whole step where all have equally many "
                f"{self.unit}"
            )
        return (
            f"neither the sum nor the mean of micro-batches is the whole step, even where all have "
            f"equally many {self.unit}"
        )


def split_of(loss: Loss, steps: Sequence[Batch], unit: Unit, rtol: float) -> Split | None:
    """How micro-batches of a unit add up to the whole step; None where parts of a step cannot be
    computed."""
    try:
        return Split(
            unit,
            all(_adds_up(loss, step, _uneven(step, unit), 1.0, rtol) for step in steps),
            all(
                _adds_up(loss, step, parts, 1 / len(parts), rtol)
                for step in steps
                if (parts := [*_even(step, unit)])
            ),
        )
    except LossError:
        return None


def _adds_up(
    loss: Loss, step: Batch, parts: Sequence[Sequence[int]], factor: float, rtol: float
) -> bool:
    rows = [row for part in parts for row in part]
    whole = _gradient(loss(step[rows]))
    added = torch.cat([_gradient(loss(step[part])) for part in parts])
    return float((factor * added - whole).norm()) <= rtol * float(whole.norm())


def _gradient(evaluation: Evaluation) -> torch.Tensor:
    """`[N, ...]`, of all trained columns."""
    by_row = [x.flatten(1) for _, x in sorted(evaluation.gradients.items())]
    return torch.cat(by_row, dim=1)


def _uneven(step: Batch, unit: Unit) -> list[list[int]]:
    if unit == "responses":
        return [[0], [*range(1, len(step))]]
    first = [row for row, prompt in enumerate(step.prompt.tolist()) if prompt == step.prompts[0]]
    return [first, [*range(len(first), len(step))]]


def _even(step: Batch, unit: Unit) -> Iterator[list[int]]:
    """Parts of equally many responses; of prompts, those with as many responses as the first."""
    if unit == "responses":
        for start in range(0, len(step) - 1, 2):
            yield [start, start + 1]
        return
    prompts = step.prompt.tolist()
    groups = [[row for row, x in enumerate(prompts) if x == p] for p in step.prompts]
    size = min(map(len, groups))
    yield from (group[:size] for group in groups)
