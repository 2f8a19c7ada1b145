"""Advantages and divisors that carry a gradient of their own, and what it adds to the weight.

Let c be the coefficient of a policy's term, `c * log(pi)` or `c * pi / old`. Meant is the weight c.
Where c itself changes with the policy, the weight has `dc / dlog pi` times the policy's term on top
of it: for `c = R - b sum[s >= t] log(pi / ref)` in front of `log(pi)` that is `-b sum[s <= t] log
pi`, the gradient of nothing that was asked for; in front of a ratio it is `-b t`, a baseline that
has no expectation on policy. `r * (A - b * k3(pi, ref))` is the one case that is meant: its
derivative is what makes it the reverse KL.

A divisor d of a policy's term does the same: beside `1 / d` of what was meant stands `-1 / d^2` of
the whole, times `dd / dlog pi`. With `mean[i] r` of the ratios of responses that is a mean
baseline, and meant for all that is known; with `mean[i,t] r` it is one that weighs responses by
their lengths.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from enum import Enum

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, TooLargeError
from objdsl.analysis.algebra.symbols import OfTokens
from objdsl.analysis.gradient.divergence import Descends, readings
from objdsl.analysis.gradient.estimator import Direction, Estimator
from objdsl.analysis.gradient.terms import Kind
from objdsl.analysis.values.dependence import is_reward
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO, sub
from objdsl.ir.differentiate import Leaf, weights_of
from objdsl.ir.objective import Objective


class Adds(Enum):
    """What the derivative of an advantage adds to the expected gradient, on policy."""

    BIAS = "an expectation"
    NOISE = "none: it is a baseline that the advantage did not have"


# The most live parts of a goal that are examined: each costs a derivative.
_MOST_LIVE = 8


@dataclass(frozen=True)
class LiveAdvantage:
    """An advantage with a gradient.

    Attributes:
        node: the advantage, as it stands in the product.
        leaf: what it has a gradient by.
        extra: what its derivative adds to the weight by the leaf, on policy.
    """

    node: n.Expr
    leaf: Leaf
    extra: n.Expr
    adds: Adds


@dataclass(frozen=True)
class LiveDivisor:
    """A divisor with a gradient that biases the expected one, or leaves nothing of it.

    Attributes:
        node: the divisor.
        extra: what its derivative adds to the weight, on policy.
        cancels: it takes away all that was meant.
    """

    node: n.Expr
    extra: n.Expr
    cancels: bool


def live_advantages(
    objective: Objective, weights: dict[Leaf, n.Expr], expand: Expand
) -> Iterator[LiveAdvantage]:
    """The advantages of a goal whose own derivative adds unintended parts to its weights.

    Args:
        weights: the derivative of what is maximised by each trained leaf.
        expand: formulas as sums of products, on policy.
    """
    for node in _coefficients(objective.goal)[:_MOST_LIVE]:
        meant = _with_stopped(objective, node)
        for leaf, weight in weights.items():
            extra = sub(weight, meant[leaf]) if leaf in meant else weight
            try:
                total = expand(extra)
            except TooLargeError:
                continue
            if isinstance(leaf, n.LogProb):
                adds = _adds(Estimator(objective, leaf, extra, expand), weight)
            else:
                adds = _adds_elsewhere(leaf, total)
            if adds is not None:
                yield LiveAdvantage(node, leaf, total.expr(), adds)


def _adds(extra: Estimator, weight: n.Expr) -> Adds | None:
    """What the extra part of a weight does; None if nothing, or what was intended."""
    varying = [
        term for term in extra.terms if any(factor.depends.on_response for factor in term.factors)
    ]
    if not varying:
        varies = any(not factor.depends.constant for term in extra.terms for factor in term.factors)
        return Adds.NOISE if varies else None
    penalty = all(term.kind is Kind.PENALTY for term in varying)
    return None if penalty and _all_divergences(replace(extra, weight=weight)) else Adds.BIAS


def _adds_elsewhere(leaf: Leaf, extra: Sum) -> Adds | None:
    """What the extra part does in the weight of a critic, which would learn to raise J, or of the
    whole distribution, where the gradient of an entropy is intended, but not one that the sampled
    token weights."""
    bases = [base for factors in extra.terms for base, _ in factors]
    weighed = any(isinstance(node, OfTokens) for node in n.topological(*bases))
    return Adds.BIAS if extra.terms and (isinstance(leaf, n.Column) or weighed) else None


def _with_stopped(objective: Objective, node: n.Expr) -> dict[Leaf, n.Expr]:
    """The weights as if a node had no gradient."""
    return weights_of(replace(objective, goal=n.replaced(objective.goal, {node: n.Stop(node)})))


def _all_divergences(estimator: Estimator) -> bool:
    """Whether all terms of a weight with frozen policies descend a divergence."""
    return all(
        penalty is not None and penalty.descends is not Descends.NO_DIVERGENCE
        for _, penalty in readings(estimator)
    )


def live_divisors(
    objective: Objective, weights: dict[Leaf, n.Expr], estimators: Collection[Estimator]
) -> Iterator[LiveDivisor]:
    """The divisors whose own derivative biases what a goal's weights estimate, each once.

    Args:
        weights: the derivative of what is maximised by each trained leaf.
        estimators: what the weights of the sampled tokens' log-probabilities estimate.
    """
    for node in _divisors(objective.goal)[:_MOST_LIVE]:
        meant = _with_stopped(objective, node)
        # If nothing is left without it, the divisor is the policy's term itself.
        known = [estimator for estimator in estimators if estimator.leaf in meant]
        divisors = [_divides(on, replace(on, weight=meant[on.leaf]), node) for on in known]
        for leaf, weight in weights.items():
            if known and isinstance(leaf, n.LogDist):
                extra = sub(weight, meant.get(leaf, ZERO))
                divisors.append(_divides_distribution(extra, known[0].expand, node))
        yield from [divisor for divisor in divisors if divisor is not None][:1]


def _divides(all_of_it: Estimator, meant: Estimator, node: n.Expr) -> LiveDivisor | None:
    """What the derivative of a divisor does to the gradient; None if nothing."""
    extra = replace(meant, weight=sub(all_of_it.weight, meant.weight))
    if extra.expanded is None:
        return None
    cancels = all_of_it.direction is Direction.NONE and bool(extra.of(Kind.SIGNAL))
    if not cancels and _bias_factors(extra) <= _bias_factors(meant):
        return None
    return LiveDivisor(node, extra.expanded.expr(), cancels)


def _divides_distribution(extra: n.Expr, expand: Expand, node: n.Expr) -> LiveDivisor | None:
    """The live divisor of the weight of the whole distribution: a reward beside it differs between
    states."""
    try:
        total = expand(extra)
    except TooLargeError:
        return None
    bases = [base for factors in total.terms for base, _ in factors]
    rewarded = any(is_reward(node) for node in n.topological(*bases))
    return LiveDivisor(node, total.expr(), cancels=False) if rewarded else None


def _bias_factors(estimator: Estimator) -> set[tuple[n.Expr, bool]]:
    return {(bias.factor.base, bias.everywhere) for bias in estimator.bias_factors}


def _divisors(goal: n.Expr) -> list[n.Expr]:
    """The divisors with a gradient."""
    divisors: dict[n.Expr, None] = {}
    for node in n.topological(goal):
        match node:
            case n.Binary("div", _, b) if b.live:
                divisors[b] = None
            case n.Binary("pow", b, n.Const(e)) if b.live and e < 0:
                divisors[b] = None
            case n.Unary("exp", x) if x.live:
                divisors |= dict.fromkeys(_subtracted_logs(x))
    return list(divisors)


def _subtracted_logs(x: n.Expr) -> Iterator[n.Expr]:
    """The divisors of `exp(x)` that are written as logarithms subtracted in x."""
    stack, seen = [(x, 1)], set[tuple[n.Expr, int]]()
    while stack:
        node, sign = entry = stack.pop()
        if entry in seen:
            continue
        seen.add(entry)
        match node:
            case n.Unary("neg", a):
                stack.append((a, -sign))
            case n.Binary("add" | "sub" as op, a, b):
                stack += [(a, sign), (b, sign if op == "add" else -sign)]
            case n.Unary("log", a) if sign < 0 and a.live:
                yield a


def too_many(goal: n.Expr) -> bool:
    """Whether more advantages or divisors carry a gradient than are examined."""
    return max(len(_coefficients(goal)), len(_divisors(goal))) > _MOST_LIVE


def _coefficients(goal: n.Expr) -> list[n.Expr]:
    """The live sums of data and of the policy that are multiplied by a term of the policy."""
    coefficients: dict[n.Expr, None] = {}
    mixed: set[n.Expr] = set()
    data = n.holding(lambda node: isinstance(node, n.Column) and not node.boolean, goal)
    for node in n.topological(goal):
        if _mixed(node, mixed, data):
            mixed.add(node)
        match node:
            case n.Binary("mul", a, b) if a.live and b.live and (a in mixed) != (b in mixed):
                coefficients[a if a in mixed else b] = None
    return list(coefficients)


def _mixed(x: n.Expr, mixed: set[n.Expr], data: set[n.Expr]) -> bool:
    """Whether a value combines data with a value that has a gradient, by a sum or a choice, given
    whether its operands do."""
    if not x.live:
        return False
    match x:
        case n.Binary("add" | "sub", a, b) | n.Where(_, a, b):
            return any(y in mixed or (not y.live and y in data) for y in (a, b))
        case n.Binary("mul", a, b) if a.live and b.live:
            return False
        case n.Binary("mul" | "div" | "min" | "max", a, b):
            return a in mixed or b in mixed
        case n.Unary("neg" | "abs", y) | n.Clip(y) | n.Reduce(_, _, y) | n.Peers(_, _, y):
            return y in mixed
        case n.Quantile(_, y):
            return y in mixed
        case n.Scan(_, y) | n.Shift(y):
            return y in mixed
    return False
