"""What two losses differ by, as far as it can be measured.

A step is looked at through views that take something away: with the reference policy at `pi`, with
`old` at `pi`, with rewards so large that a constant beside their standard deviation is nothing. In
the first view in which the two gradients are the same, or the same up to a known factor of each
row, what is left is named; what the view took away is measured on steps of one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations

from torch import Tensor

from objdsl.compare.draw import Drawing
from objdsl.compare.factors import factor_of
from objdsl.compare.probes import clip_bounds, penalties, std_constants
from objdsl.compare.relation import Pair, Relation
from objdsl.frozen import dataclass
from objdsl.ir.columns import LogProbs, Reward
from objdsl.losses.batch import Batch
from objdsl.losses.loss import Loss, LossError

LARGE = 1e9
_PI = LogProbs("pi").name


@dataclass(frozen=True)
class Difference:
    """What two losses differ by.

    Attributes:
        kind: `factor`, `sign`, `divisor`, `ddof`, `baseline`, `micro-batch`, `stop-gradient`,
            `value`, `clip`, `penalty`, `epsilon`.
        text: a sentence.
    """

    kind: str
    text: str


View = Callable[[Batch], Batch]


def differences(
    a: Loss, b: Loss, drawing: Drawing, pairs: Sequence[Pair], rtol: float
) -> Iterator[Difference]:
    """What is recognised; nothing if nothing is."""
    relation = Relation.of(pairs, rtol)
    if relation.gradient:
        if not relation.value:
            yield _of_values(pairs)
        return
    if relation.value:
        yield Difference(
            "stop-gradient",
            "the values are the same, the gradients are not: one of them stops a gradient "
            "(`sg`, `detach`) that flows in the other",
        )
        return
    for names, view in _views(drawing):
        try:
            seen = [Pair.of(a, b, drawing.finished(view(pair.batch))) for pair in pairs]
        except LossError:
            continue
        if "large rewards" in names and not _normalised(a, b, pairs, seen):
            continue
        if all(pair.same_gradient(rtol) for pair in seen):
            yield from _without(names, a, b, drawing)
            return
        if (factor := factor_of(seen)) is not None:
            where = f" (seen with {' and '.join(names)})" if names else ""
            yield Difference(factor.kind, factor.text + where)
            yield from _beside(names, a, b, drawing)
            return
    for probe in (clip_bounds, penalties):
        text = probe(a, b, drawing)
        if text is not None:
            yield Difference("clip" if probe is clip_bounds else "penalty", text)


def _of_values(pairs: Sequence[Pair]) -> Difference:
    shifts = [pair.values[1] - pair.values[0] for pair in pairs]
    constant = max(shifts) - min(shifts) <= 1e-9 * max(map(abs, shifts))
    what = f"by {shifts[0]:.6g} on every step" if constant else "by a term without gradient"
    return Difference("value", f"the gradients are the same, and the values differ {what}")


def _views(drawing: Drawing) -> Iterator[tuple[tuple[str, ...], View]]:
    """The combinations of what can be taken away, the fewest first."""
    views: dict[str, View] = {}
    policies = {
        name: column.role.policy
        for name, column in drawing.columns.items()
        if isinstance(column.role, LogProbs) and not column.role.distribution
    }
    rewards = [name for name, column in drawing.columns.items() if isinstance(column.role, Reward)]
    versions = ("pi", "old", "mu")
    for kind, columns in (
        ("every reference at pi", [k for k, x in policies.items() if x not in versions]),
        ("old and mu at pi", [k for k, x in policies.items() if x in ("old", "mu")]),
    ):
        if columns and rewards and _PI in policies:
            views[kind] = partial(_at_pi, columns)
    free = [name for name in rewards if name not in drawing.domains]
    if free:
        views["rewards of mean 0 in each group"] = partial(_centred, free)
        views["large rewards"] = lambda batch: batch.with_columns(
            **{name: LARGE * batch.columns[name] for name in free}
        )
    for count in range(len(views) + 1):
        for names in combinations(views, count):

            def view(batch: Batch, names: tuple[str, ...] = names) -> Batch:
                for name in names:
                    batch = views[name](batch)
                return batch

            yield names, view


def _at_pi(columns: Sequence[str], batch: Batch) -> Batch:
    return batch.with_columns(**dict.fromkeys(columns, batch.columns[_PI]))


def _centred(columns: Sequence[str], batch: Batch) -> Batch:
    same = (batch.prompt[:, None] == batch.prompt).double()
    mean = same / same.sum(1, keepdim=True)
    of_responses = [name for name in columns if batch.columns[name].dim() == 1]
    return batch.with_columns(
        **{name: batch.columns[name] - mean @ batch.columns[name] for name in of_responses}
    )


def _normalised(a: Loss, b: Loss, pairs: Sequence[Pair], large: Sequence[Pair]) -> bool:
    """Whether gradients do not grow with the rewards, since their scale is divided by."""

    def size(x: Tensor) -> float:
        return float(x.norm())

    return all(
        size(after) < 1e3 * max(size(before), 1e-12)
        for pair, other in zip(pairs, large, strict=True)
        for before, after in zip(pair.gradients, other.gradients, strict=True)
    )


def _without(names: tuple[str, ...], a: Loss, b: Loss, drawing: Drawing) -> Iterator[Difference]:
    """What a view took away, and with it the difference."""
    measured = [*_beside(names, a, b, drawing)]
    yield from measured
    for name in names if not measured else ():
        kind, text = _TAKEN[name]
        yield Difference(kind, f"they differ in {text}")


_TAKEN = {
    "every reference at pi": ("penalty", "their terms against a reference"),
    "old and mu at pi": ("clip", "what they do off policy"),
    "rewards of mean 0 in each group": (
        "baseline",
        "the baseline: they are the same where the rewards of each group have mean 0",
    ),
    "large rewards": ("epsilon", "what they add to the scale of the rewards"),
}


def _beside(names: tuple[str, ...], a: Loss, b: Loss, drawing: Drawing) -> Iterator[Difference]:
    """What can be measured of what a view took away."""
    probes: dict[str, Callable[..., str | None]] = {
        "every reference at pi": penalties,
        "old and mu at pi": clip_bounds,
        "large rewards": std_constants,
    }
    for name in names:
        if name in probes and (text := probes[name](a, b, drawing)) is not None:
            yield Difference(_TAKEN[name][0], text)
