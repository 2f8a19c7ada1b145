"""Advantages that carry a gradient of their own, and what it adds to the weight.

Let c be the coefficient of a policy's term, `c * log(pi)` or `c * pi / old`. Meant is the weight c.
Where c itself changes with the policy, the weight has `dc / dlog pi` times the policy's term on top
of it: for `c = R - b sum[s >= t] log(pi / ref)` in front of `log(pi)` that is `-b sum[s <= t] log
pi`, the gradient of nothing that was asked for; in front of a ratio it is `-b t`, a baseline that
has no expectation on policy. `r * (A - b * k3(pi, ref))` is the one case that is meant: its
derivative is what makes it the reverse KL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum

from objdsl.analysis.divergence import Descends, readings
from objdsl.analysis.estimator import Estimator, Kind
from objdsl.analysis.expand import Expand, Sum, TooLarge
from objdsl.differentiate import Leaf, weights_of
from objdsl.frozen import dataclass
from objdsl.ir.build import sub
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Column,
    Expr,
    LogProb,
    Others,
    Reduce,
    Scan,
    Shift,
    Stop,
    Unary,
    Where,
    topological,
)
from objdsl.ir.objective import Objective


class Adds(Enum):
    """What the derivative of an advantage does to the expected gradient, on policy."""

    BIAS = "an expectation"
    NOISE = "none: it is a baseline that the advantage did not have"


@dataclass(frozen=True)
class LiveAdvantage:
    """An advantage with a gradient.

    Attributes:
        node: the advantage, as it stands in the product.
        leaf: what it has a gradient by.
        extra: what its derivative adds to the weight by the leaf, on policy.
    """

    node: Expr
    leaf: Leaf
    extra: Expr
    adds: Adds


def live_advantages(
    objective: Objective, weights: dict[Leaf, Expr], expand: Expand
) -> Iterator[LiveAdvantage]:
    """The advantages of a goal whose own derivative adds to its weights what was not meant.

    Args:
        weights: the derivative of what is maximised by each trained leaf.
        expand: formulas as sums of products, on policy.
    """
    for node in _coefficients(objective.goal):
        meant = weights_of(replace(objective, goal=_stopped(objective.goal, node)))
        for leaf, weight in weights.items():
            extra = sub(weight, meant[leaf]) if leaf in meant else weight
            try:
                total = expand(extra)
            except TooLarge:
                continue
            if isinstance(leaf, LogProb):
                adds = _adds(Estimator(objective, leaf, extra, expand), weight)
            else:
                adds = _adds_elsewhere(leaf, total)
            if adds is not None:
                yield LiveAdvantage(node, leaf, total.expr(), adds)


def _adds(extra: Estimator, weight: Expr) -> Adds | None:
    """What the extra part of a weight does; None if nothing, or what was meant."""
    own = [term for term in extra.terms if any(factor.depends.own for factor in term.factors)]
    if not own:
        varies = any(not factor.depends.constant for term in extra.terms for factor in term.factors)
        return Adds.NOISE if varies else None
    penalty = all(term.kind is Kind.PENALTY for term in own)
    return None if penalty and _all_divergences(replace(extra, weight=weight)) else Adds.BIAS


def _adds_elsewhere(leaf: Leaf, extra: Sum) -> Adds | None:
    """The same by a critic, which would learn to raise J; or by the distribution of words, where
    the gradient of an entropy is meant and one that the sampled token weighs is not."""
    bases = [base for factors in extra.terms for base, _ in factors]
    weighed = any(isinstance(node, LogProb) for node in topological(*bases))
    return Adds.BIAS if extra.terms and (isinstance(leaf, Column) or weighed) else None


def _all_divergences(estimator: Estimator) -> bool:
    """Whether all that frozen policies bring to a weight descends a divergence."""
    return all(
        penalty is not None and penalty.descends is not Descends.NO_DIVERGENCE
        for _, penalty in readings(estimator)
    )


def _coefficients(goal: Expr) -> list[Expr]:
    """The live sums of data and of the policy that are multiplied by a term of the policy."""
    found: dict[Expr, None] = {}
    for node in topological(goal):
        match node:
            case Binary("mul", a, b) if a.live and b.live and _mixed(a) != _mixed(b):
                found[a if _mixed(a) else b] = None
    return list(found)


def _mixed(x: Expr) -> bool:
    """Whether a value is a sum of one that comes from data and of one that has a gradient, or now
    the one and now the other."""
    if not x.live:
        return False
    match x:
        case Binary("add" | "sub", a, b) | Where(_, a, b):
            return _mixed(a) or _mixed(b) or _data(a) or _data(b)
        case Binary("mul", a, b) if a.live and b.live:
            return False
        case Binary("mul" | "div" | "min" | "max", a, b):
            return _mixed(a) or _mixed(b)
        case Unary("neg" | "abs", y) | Clip(y) | Reduce(_, _, y) | Others(_, y):
            return _mixed(y)
        case Scan(_, y) | Shift(y):
            return _mixed(y)
    return False


def _data(x: Expr) -> bool:
    """Whether a value without a gradient comes from columns of the data."""
    return not x.live and any(
        isinstance(node, Column) and not node.boolean for node in topological(x)
    )


def _stopped(goal: Expr, node: Expr) -> Expr:
    """The goal with `sg` around a node."""
    done: dict[Expr, Expr] = {}
    for one in topological(goal):
        done[one] = Stop(one) if one == node else one.rebuilt(done)
    return done[goal]
