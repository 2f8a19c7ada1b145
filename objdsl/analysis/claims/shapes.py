"""The role of a factor of a weight, by its form: a mask, a count, the dispersion of rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError, interval
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor
from objdsl.analysis.values.dependence import depends, is_reward
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, add, const, sub
from objdsl.ir.indices import TOKEN

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


def inside_ratio(facts: Facts, node: n.Expr) -> bool:
    """Whether a node is in the exponent of a ratio through which a gradient flows."""
    return node.span is not None and any(
        any(part.span == node.span for part in n.topological(ratio.x))
        for ratio in n.topological(facts.objective.goal)
        if isinstance(ratio, n.Unary) and ratio.op == "exp" and ratio.live
    )


def has_deviation(node: n.Expr) -> bool:
    """Whether a standard deviation is part of a value; a deviation in a mask does not count."""
    stack = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, n.Reduce) and part.op in ("std", "pstd"):
            return True
        stack += [child for child in part.children if not child.boolean]
    return False


def measures_dispersion(estimator: Estimator, factor: Factor) -> bool:
    """Whether a factor measures how much rewards differ, however that is written: a deviation, or a
    divisor that includes the response's own reward and stays the same when all rewards are raised
    by the same number, or when two values of a reward change places."""
    if has_deviation(factor.base):
        return True
    divides = factor.exponent < 0 and factor.depends.pooled
    ratio = isinstance(factor.base, n.Unary) and factor.base.op == "exp"
    if not divides or ratio or not factor.depends.rewards:
        return False
    raised = _with_rewards(factor.base, lambda reward: add(reward, ONE))
    swapped = _with_rewards(factor.base, lambda reward: sub(const(sum(reward.values)), reward))
    others = [raised, swapped] if estimator.rewards_are_binary else [raised]
    try:
        changes = [estimator.expand(sub(other, factor.base)).terms.values() for other in others]
        return any(all(abs(c) < 1e-9 for c in change) for change in changes)
    except TooLargeError:
        return False


def _with_rewards(x: n.Expr, changed: Callable[[n.Column], n.Expr]) -> n.Expr:
    """A formula with changed rewards."""
    return n.replaced(
        x,
        {
            node: changed(node)
            for node in n.topological(x)
            if isinstance(node, n.Column) and is_reward(node)
        },
    )


def is_mask(node: n.Expr) -> bool:
    """Whether a value is a mask, or a column that is declared as zeros and ones."""
    return node.boolean or (isinstance(node, n.Column) and set(node.values) == {0.0, 1.0})


def counts(node: n.Expr) -> bool:
    """Whether a value is the number of elements for which a mask holds."""
    match node:
        case n.Reduce("sum", _, x, _):
            return _is_counted(x)
        case n.Binary("add" | "sub" | "max", a, b):
            return counts(a) or counts(b)
    return False


def _is_counted(x: n.Expr) -> bool:
    """Whether a value is a mask, a number of elements for which one holds, or their product."""
    if isinstance(x, n.Binary) and x.op == "mul":
        return _is_counted(x.a) and _is_counted(x.b)
    return is_mask(x) or isinstance(x, n.Where) or counts(x)


def is_score(base: n.Expr, leaf: n.Expr) -> bool:
    """Whether a factor is log(pi) of the token, or its sum over tokens of the response."""
    return base == leaf or (isinstance(base, n.Reduce | n.Scan) and base.x == leaf)


def product_with_gradients(facts: Facts, leaf: n.Expr) -> n.Expr | None:
    """A product of two factors with gradients, preferably one with log(pi) itself as a factor."""
    products = [
        node
        for node in reversed(facts.passing)
        if isinstance(node, n.Binary) and node.op == "mul" and node.a.live and node.b.live
    ]
    plain = [node for node in products if leaf in (node.a, node.b)]
    return next(iter(plain + products), None)


def discounts(node: n.Expr) -> bool:
    """Whether a value discounts a reward that comes with the last token."""
    return (
        isinstance(node, n.Scan) and node.decay is not None and depends(node).reads <= {"t", "|y|"}
    )


def reaches_some(node: n.Expr) -> bool:
    """Whether a value is a token's reward that does not reach all tokens up to it with the same
    constant: it reaches its own token only, or is discounted."""
    match node:
        case n.Column() as reward:
            return is_reward(reward) and reward.over == TOKEN
        case n.Scan(relation, n.Column() as reward, decay):
            whole = relation == ">=" and decay is None
            return is_reward(reward) and relation != "<" and not whole
    return False


@dataclass(frozen=True)
class Bounded:
    """A value between bounds, however that is written: `clip(x, lo, hi)`, `min(x, hi)`,
    `max(min(x, hi), lo)`. A bound that is never reached is None.

    Attributes:
        through: the nodes that bound it, from the outside inwards.
    """

    x: n.Expr
    lo: n.Expr | None
    hi: n.Expr | None
    through: tuple[n.Expr, ...]


def match_bounded(
    node: n.Expr, changes: Callable[[n.Expr], bool], expand: Expand
) -> Bounded | None:
    """The bounds of a clipped value; None for other values.

    Args:
        changes: whether a value changes with what is bounded; a bound does not.
        expand: formulas as sums of products: what surely lies within a bound needs none.
    """
    x, lo, hi = node, None, None
    through: list[n.Expr] = []
    while True:
        outer = x
        match x:
            case n.Clip(inner, low, high):
                x, lo, hi = inner, lo or low, hi or high
            case n.Binary("min" | "max" as op, a, b) if changes(a) != changes(b):
                x, bound = (a, b) if changes(a) else (b, a)
                lo, hi = (lo, hi or bound) if op == "min" else (lo or bound, hi)
            case _:
                break
        through.append(outer)
    if not through:
        return None
    try:
        least, most = interval(expand(x))
        lo = None if lo is not None and interval(expand(lo))[1] <= least else lo
        hi = None if hi is not None and interval(expand(hi))[0] >= most else hi
    except TooLargeError:
        pass
    return Bounded(x, lo, hi, tuple(through))


def is_constant(x: n.Expr, expand: Expand) -> bool:
    """Whether a value is a number, whatever the policies are: `pi / sg(pi)` is 1."""
    try:
        return expand(x).number is not None
    except TooLargeError:
        return False
