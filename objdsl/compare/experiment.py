"""The comparison: two losses on random steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objdsl.audit.columns import keys_of
from objdsl.compare.diagnosis import differences
from objdsl.compare.draw import Drawing
from objdsl.compare.probes import scan
from objdsl.compare.relation import Pair, Relation
from objdsl.compare.report import Comparison, table
from objdsl.compare.smallest import smallest
from objdsl.compare.splits import Split, split_of
from objdsl.losses.advantages import Advantages
from objdsl.losses.batch import ADVANTAGE, Batch
from objdsl.losses.loss import Loss, LossError, ObjectiveLoss
from objdsl.losses.python import PythonLoss, is_python
from objdsl.objective import Objective, load

Given = str | Path | Objective

DEFAULT_ADVANTAGES = "grpo"


def compare(
    a: Given,
    b: Given,
    *,
    like: str = "torch",
    advantages: Given | None = None,
    settings: Mapping[str, Any] | None = None,
    group: int | None = None,
    steps: int = 6,
    seed: int = 0,
    rtol: float = 1e-7,
) -> Comparison:
    """Compares two losses on random steps.

    Args:
        a, b: an objective, a path, a name of the gallery, or a Python function,
            `my_losses.py:loss`, whose file is run.
        like: the convention of Python functions: `torch`, `verl`, `trl` or `tinker`.
        advantages: the objective whose `A` a Python function is given as its advantages; by
            default the objective beside it, or `grpo`.
        settings: other arguments of the Python functions.
        group: the number of responses to each prompt; by default several sizes.
        steps: how many steps are drawn, and as many on policy.
        seed: of the steps.
        rtol: the largest relative difference of what is the same.

    Raises:
        LossError: one of them cannot be computed, or is no loss.
        FileNotFoundError, ObjectiveError: as `objdsl.load`.
    """
    first, second, drawing = losses(
        a, b, like=like, advantages=advantages, settings=settings, group=group
    )
    drawn = [*drawing.steps(steps, seed)]
    off = [Pair.of(first, second, batch) for batch in (*drawn, *scans(drawing))]
    on = [Pair.of(first, second, batch) for batch in drawing.steps(steps, seed, on_policy=True)]
    relation, on_policy = Relation.of(off, rtol), Relation.of(on, rtol)
    same = all(x.value and x.gradient for x in (relation, on_policy))
    names = () if same else tuple(differences(first, second, drawing, off, rtol))
    example = None if same else _example(first, second, drawing, [*off, *on], rtol)
    return Comparison(
        first.name,
        second.name,
        like,
        dict(settings or {}),
        None if drawing.advantages is None else drawing.advantages.name,
        len(off) + len(on),
        seed,
        relation,
        on_policy,
        tuple(_splits(drawn, first, second, rtol=rtol)),
        names,
        example,
    )


def losses(
    a: Given,
    b: Given,
    *,
    like: str = "torch",
    advantages: Given | None = None,
    settings: Mapping[str, Any] | None = None,
    group: int | None = None,
) -> tuple[Loss, Loss, Drawing]:
    """Two losses, and what their steps are drawn from."""
    objectives = [x for x in map(_objective, (a, b)) if x is not None]
    known = {name: column for x in objectives for name, column in x.columns.items()}
    first, second = (loss_of(x, like, known, settings) for x in (a, b))
    columns = {**first.columns, **second.columns}
    domains = {**first.domains, **second.domains}
    source = None
    if columns.pop(ADVANTAGE, None) is not None:
        beside = (x for x in (a, b) if _objective(x) is not None)
        given = advantages if advantages is not None else next(beside, DEFAULT_ADVANTAGES)
        source = (
            Advantages(given.name, given)
            if isinstance(given, Objective)
            else Advantages(str(given), load(given))
        )
        columns = source.columns | columns
    equal = [
        pair
        for loss in (first, second)
        if isinstance(loss, PythonLoss)
        for pair in loss.convention.equal
    ]
    keys = {name for x in objectives for name in keys_of(x)}
    return first, second, Drawing(columns, domains, keys, equal, source, group)


def loss_of(
    x: Given,
    like: str = "torch",
    known: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Loss:
    """An objective, or a Python function, as a loss."""
    if isinstance(x, Objective):
        return ObjectiveLoss(x.name, x)
    if is_python(str(x)):
        return PythonLoss(str(x), like, known, settings)
    return ObjectiveLoss(str(x), load(x))


def scans(drawing: Drawing) -> Iterator[Batch]:
    """Steps of single tokens, whose ratios are everywhere."""
    for positive in (True, False):
        with suppress(LossError):  # groups of two have no advantage
            yield scan(drawing, positive)


def _objective(x: Given) -> Objective | None:
    if isinstance(x, Objective):
        return x
    return None if is_python(str(x)) else load(x)


def _splits(drawn: Sequence[Batch], *losses: Loss, rtol: float) -> Iterator[tuple[str, Split]]:
    """What micro-batches of the Python losses add up to."""
    for loss in losses:
        if isinstance(loss, PythonLoss):
            grouped = "prompt" in loss.names or (
                "reward" in loss.columns and not loss.takes_advantages
            )
            split = split_of(loss, drawn[:3], "prompts" if grouped else "responses", rtol)
            if split is not None:
                yield loss.name, split


def _example(a: Loss, b: Loss, drawing: Drawing, pairs: Sequence[Pair], rtol: float) -> Pair:
    """The smallest step on which they differ: in their gradients if those ever differ."""
    gradients = any(not pair.same_gradient(rtol) for pair in pairs)

    def differs(pair: Pair) -> bool:
        return not (pair.same_gradient(rtol) if gradients else pair.same_value(rtol))

    start = next(pair for pair in pairs if differs(pair))
    batch = smallest(start.batch, drawing, lambda batch: differs(Pair.of(a, b, batch)))
    return Pair.of(a, b, batch)


def assert_same(
    a: Given,
    b: Given,
    *,
    prompt: list[int],
    lengths: list[int],
    like: str = "torch",
    advantages: Given | None = None,
    settings: Mapping[str, Any] | None = None,
    rtol: float = 1e-7,
    **columns: Any,
) -> None:
    """Asserts that two losses have the same value and the same gradient on a step.

    Args:
        a, b, like, advantages, settings: as in `compare`.
        prompt, lengths: of each response.
        rtol: the relative tolerance of both.
        columns: numbers, lists of N numbers, or N lists with a number per token.

    Raises:
        AssertionError: the values or the gradients differ.
        LossError: one of the losses cannot be computed.
    """
    first, second, drawing = losses(a, b, like=like, advantages=advantages, settings=settings)
    size = torch.tensor(lengths)
    mask = torch.arange(int(size.max())) < size[:, None]
    batch = Batch(torch.tensor(prompt), mask, {k: padded(x, mask) for k, x in columns.items()})
    pair = Pair.of(first, second, drawing.finished(batch))
    assert pair.same_value(rtol), f"the losses are {pair.values[0]} and {pair.values[1]}"
    assert pair.same_gradient(rtol), "\n".join(["the gradients differ:", *table(pair)])


def padded(x: Any, mask: Tensor) -> Tensor:
    """A column from lists, with 0 in the padding."""
    if not isinstance(x, list) or not isinstance(x[0], list):
        return torch.tensor(x, dtype=torch.float64)
    rows = [torch.tensor(row, dtype=torch.float64) for row in x]
    padded = torch.zeros((*mask.shape, *rows[0].shape[1:]), dtype=torch.float64)
    for k, row in enumerate(rows):
        padded[k, : len(row)] = row
    return padded
