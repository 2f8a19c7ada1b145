"""Optimizer steps that are skipped since something of them is not finite, and what that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from objdsl.errors import ObjdslError
from objdsl.ir.columns import Column, LogProbs
from objdsl.ir.indices import VOCAB
from objdsl.objective import Output

WITHIN = 100
"""The rollouts within which skipped steps are counted."""


class NotFiniteError(ObjdslError, ArithmeticError):
    """A column, the value or a gradient of an optimizer step is not finite; nothing has changed."""


def strange_column(
    columns: Mapping[str, Column], values: Mapping[str, object], mask: Tensor, whole: bool = True
) -> str | None:
    """The first column with a value that is not finite; None if there is none.

    Args:
        columns: those that the objective reads.
        values: a number per token, `[N, T, ...]`, or per response.
        mask: `[N, T]`, the tokens that count.
        whole: whether these are all rows of the step, so that one has a number.
    """
    for name, column in columns.items():
        x = values.get(name)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            continue
        strange = ~x.isfinite()
        if column.indices == VOCAB:  # an impossible entry of the vocabulary has the logarithm -inf
            strange = (x.isnan() | x.isposinf()).any(-1)
        if strange.dim() > 1:
            strange = strange & mask
        if not bool(strange.any()):
            continue
        at = strange.nonzero()[0].tolist()
        row = x.detach()[tuple(at)]
        number = float(row if row.dim() == 0 else row[~row.isfinite()][0])
        role = column.role
        policy = f" of the policy `{role.policy}`" if isinstance(role, LogProbs) else ""
        place = " of ".join([*(f"token {t}" for t in at[1:]), f"response {at[0]}"])
        return f"the column `{name}`{policy} is {number}{f' at {place}' if whole else ''}"
    return None


def poisoned(live: Mapping[str, Tensor], reports: Sequence[str]) -> Output:
    """The output for trained inputs that are not finite: a loss of NaN that still reaches them, so
    that every rank takes the same part in the step, and all skip it."""
    nan = torch.full((), torch.nan)
    loss = torch.stack([x.sum() * torch.nan for x in live.values()]).sum()
    return Output(loss, nan, dict.fromkeys(reports, nan))
