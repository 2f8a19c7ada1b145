"""The optimizer steps of TRL: which micro-batches they have, as rows of one `Step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.ir.columns import Column, LogProbs, Noise
from objdsl.objective import Objective
from objdsl.step import Step

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Batch = dict[str, Any]

PREFIX = "objective."
"""Columns of responses travel through TRL's batches under names that TRL does not have."""


@dataclass(frozen=True)
class Window:
    """The micro-batches that one optimizer step consists of, on this rank.

    Attributes:
        step: this rank's rows of the whole step, micro-batch after micro-batch.
        used: `[n]` of each micro-batch, which of its responses are in the step.
        current: columns of the policy as it was at generation, which is the policy of the step:
            the pass that learns gives them.
    """

    batches: Sequence[Batch]
    step: Step
    used: Sequence[Tensor]
    current: tuple[str, ...]

    def rows(self, number: int) -> slice:
        """Where the responses of a micro-batch are in the step."""
        first = sum(int(used.sum()) for used in self.used[:number])
        return slice(first, first + int(self.used[number].sum()))


def prepared(objective: Objective, batches: Sequence[Batch], group: ProcessGroup | None) -> Window:
    """All that is known of an optimizer step before its micro-batches. Collective.

    Args:
        group: the ranks that share the step, if there are several.
    """
    masks = [mask_of(batch) for batch in batches]
    used = [
        mask.any(1) & ~batch[PREFIX + "reward"].isnan()
        for mask, batch in zip(masks, batches, strict=True)
    ]

    def together(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([x[rows] for x, rows in zip(tensors, used, strict=True)])

    mask = together(masks)
    columns: dict[str, Any] = {}
    current: list[str] = []
    for name, column in objective.columns.items():
        if column.trained or isinstance(column.role, Noise):
            continue
        values = [x for batch in batches if (x := _column(column, batch)) is not None]
        if len(values) == len(batches):
            columns[name] = together(values)
        else:
            current.append(name)
            columns[name] = torch.zeros(mask.shape, device=mask.device)
    step = objective.prepare(
        prompt=together([batch[PREFIX + "prompt"] for batch in batches]),
        mask=mask,
        group=group,
        **columns,
    )
    return Window(batches, step, used, tuple(current))


def _column(column: Column, batch: Batch) -> Tensor | None:
    """A column of a micro-batch; None if it is the policy's own, which is not known yet."""
    old: Tensor | None = batch.get("old_per_token_logps")
    match column.role:
        case LogProbs("old"):
            return old
        case LogProbs("mu"):
            sampled: Tensor | None = batch.get("sampling_per_token_logps")
            if sampled is None or old is None:
                return old if sampled is None else sampled
            return torch.where(sampled.isnan(), old, sampled)  # vLLM cannot score every token
        case LogProbs("ref"):
            ref: Tensor = batch["ref_per_token_logps"]
            return ref
    values: Tensor = batch[PREFIX + column.name]
    return values


def mask_of(batch: Batch) -> Tensor:
    """`[n, T]`, the tokens that the policy wrote; not what tools answered."""
    mask: Tensor = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if "tool_mask" in batch else mask
