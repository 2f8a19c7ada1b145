"""The smallest step on which two losses differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from objdsl.compare.draw import Drawing
from objdsl.ir.columns import IDS, Column, LogProbs
from objdsl.ir.declarations import Domain
from objdsl.losses.batch import ADVANTAGE, Batch, masked
from objdsl.losses.loss import LossError

Differs = Callable[[Batch], bool]


def smallest(batch: Batch, drawing: Drawing, differs: Differs) -> Batch:
    """The step with fewer prompts, responses and tokens, and with simpler numbers, on which they
    still differ."""

    def holds(candidate: Batch) -> Batch | None:
        try:
            candidate = drawing.finished(candidate)
            return candidate if differs(candidate) else None
        except LossError:
            return None  # a group of one, and the like

    for smaller in (_rows, _tokens):
        batch = _descended(batch, smaller, holds)
    for digits in (2, 1, 0):
        for name in sorted(batch.columns.keys() - {ADVANTAGE}):
            column = drawing.columns.get(name)
            if column is None:
                continue
            rounded = _rounded(batch.columns[name], column, drawing, batch.mask, digits)
            batch = holds(batch.with_columns(**{name: rounded})) or batch
    for name, others in _alike(drawing, batch):
        for other in others:
            batch = holds(batch.with_columns(**{name: batch.columns[other]})) or batch
    return batch


def _descended(
    batch: Batch,
    smaller: Callable[[Batch], Iterator[Batch]],
    holds: Callable[[Batch], Batch | None],
) -> Batch:
    """The first smaller step that holds, over and over."""
    while (
        candidate := next((x for y in smaller(batch) if (x := holds(y)) is not None), None)
    ) is not None:
        batch = candidate
    return batch


def _rows(batch: Batch) -> Iterator[Batch]:
    """Half of the prompts, all but one, and all but one response."""
    rows = range(len(batch))
    prompts = batch.prompt.tolist()
    half = prompts.index(batch.prompts[len(batch.prompts) // 2])
    if half:
        yield batch[range(half)].narrowed()
        yield batch[range(half, len(batch))].narrowed()
    if len(batch.prompts) > 2:
        for prompt in batch.prompts:
            yield batch[[row for row in rows if prompts[row] != prompt]].narrowed()
    if len(batch) > 1:
        for row in rows:
            yield batch[[x for x in rows if x != row]].narrowed()


def _tokens(batch: Batch) -> Iterator[Batch]:
    """Without a token."""
    for row, length in enumerate(batch.lengths.tolist()):
        for t in reversed(range(length) if length > 1 else ()):
            yield batch.without_token(row, t)


def _rounded(x: Tensor, column: Column, drawing: Drawing, mask: Tensor, digits: int) -> Tensor:
    """Numbers of fewer digits that a column may still hold."""
    domain = drawing.domains.get(column.name, Domain())
    if domain.values or column.name == IDS.name:
        return x
    rounded = torch.round(x, decimals=digits)
    if isinstance(column.role, LogProbs):
        if column.role.distribution:
            return x
        rounded = rounded.clamp(max=-(10.0**-digits))
    if not all(domain.holds(number) for number in rounded.flatten().tolist()):
        return x
    return masked(rounded, mask)


def _alike(drawing: Drawing, batch: Batch) -> Iterator[tuple[str, list[str]]]:
    """Log-probabilities that could be those of another policy; frozen ones, before pi's."""
    names = [
        name
        for name, column in drawing.columns.items()
        if isinstance(column.role, LogProbs) and not column.role.distribution
    ]
    for name in sorted(names, key=lambda name: name == LogProbs("pi").name):
        yield name, [other for other in names if other != name and other in batch.columns]
