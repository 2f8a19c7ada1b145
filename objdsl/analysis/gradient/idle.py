"""Summands that read policies and have no gradient in expectation: penalties that do nothing.

Any function of the prefix may be added to the weight of a token, `E[f(y_<t) grad log pi] = 0`. So a
KL over the whole vocabulary behind `sg`, in front of `log(pi)`, keeps the policy near no reference,
and an entropy that is added to the advantage is no bonus. A baseline of rewards is such a function,
too, and lowers the variance; one that reads policies alone was meant as a penalty or a bonus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import Ratio
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.terms import Factor
from objdsl.analysis.values.dependence import Dependence, Level, depends, is_reward
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO, neg, sub
from objdsl.ir.columns import is_critic
from objdsl.ir.differentiate import Leaf, weights_of
from objdsl.ir.objective import Objective

# The most summands that are examined: each costs a derivative.
_MOST_TERMS = 32


@dataclass(frozen=True)
class Idle:
    """A summand whose weight has no expectation.

    Attributes:
        node: the summand, as it stands in the goal or in an advantage.
        brings: the weight that it brings, on policy.
        policies: the frozen policies that it reads.
        lengths: the weight is divided by a length, so that something is left of it.
    """

    node: n.Expr
    brings: Estimator
    policies: tuple[str, ...]
    lengths: bool


def idle(
    objective: Objective, weights: Mapping[Leaf, n.Expr], estimators: Iterable[Estimator]
) -> Iterator[Idle]:
    """The summands of a goal, and of what is multiplied in it, that read policies and bring a
    number of the prefix, outermost first.

    Args:
        weights: the derivative of what is maximised by each trained leaf.
        estimators: what those by log-probabilities estimate, on policy.
    """
    estimators = tuple(estimators)
    penalised = frozen(objective)
    outermost: list[n.Expr] = []
    for node, without in islice(_summands(objective.goal), _MOST_TERMS):
        if any(node in n.topological(outer) for outer in outermost):
            continue
        brings = _brings(weights_of(replace(objective, goal=without)), weights, estimators)
        if brings is None or not all(_is_idle(term.factors, brings) for term in brings.terms):
            continue
        if _centres(brings, estimators):
            continue
        outermost.append(node)
        read = {x.policy for x in n.topological(node) if isinstance(x, n.LogProb | n.LogDist)}
        lengths = any(_of_length(f.depends) for term in brings.terms for f in term.factors)
        yield Idle(node, brings, tuple(p for p in penalised if p in read), lengths)


def brought(summand: Idle) -> n.Expr:
    """The weight of a summand, on policy."""
    expanded = summand.brings.expanded
    return ZERO if expanded is None else expanded.expr()


def _summands(goal: n.Expr) -> Iterator[tuple[n.Expr, n.Expr]]:
    """The summands of a goal, and of its factors, that read policies and no reward, each with the
    goal without it."""
    rewarded = n.holding(lambda x: is_reward(x) or is_critic(x), goal)
    reads = n.holding(lambda x: isinstance(x, n.LogDist | n.LogProb), goal)
    stack, seen = [goal], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node in seen or node.boolean or node not in reads:
            continue
        seen.add(node)
        match node:
            case n.Binary("add" | "sub" as op, a, b):
                for part, rest in ((a, b if op == "add" else neg(b)), (b, a)):
                    if part in reads and part not in rewarded and _may_be_idle(part):
                        yield part, n.replaced(goal, {node: rest})
                stack += [b, a]
            case n.Unary("neg", x) | n.Stop(x):
                stack.append(x)
            case n.Reduce("sum" | "mean", _, x) | n.Peers("sum" | "mean", _, x):
                stack.append(x)
            case n.Scan(_, x) | n.Shift(x) | n.Clip(x) | n.Quantile(_, x):
                stack.append(x)
            case n.Binary("mul" | "min" | "max", a, b) | n.Where(_, a, b):
                stack += [b, a]
            case n.Binary("div", a, _):
                stack.append(a)


def _may_be_idle(part: n.Expr) -> bool:
    """Whether a summand is a candidate: it reads more than the sampled token's probability under
    one policy (a part of a log-ratio is not a summand on its own), and it is known before the
    token, or has a gradient, which may be."""
    return not isinstance(part, n.LogProb | n.LogDist) and (
        part.live or not depends(part).on_response
    )


def _brings(
    without: Mapping[Leaf, n.Expr], every: Mapping[Leaf, n.Expr], estimators: tuple[Estimator, ...]
) -> Estimator | None:
    """The weight of a summand for the sampled tokens' log-probabilities; None if it also has one
    elsewhere."""
    changed = [leaf for leaf in every if every[leaf] != without.get(leaf, ZERO)]
    if len(changed) != 1:
        return None
    for estimator in estimators:
        if estimator.leaf == changed[0]:
            weight = sub(estimator.weight, without.get(estimator.leaf, ZERO))
            brings = replace(estimator, weight=weight)
            return brings if brings.expanded is not None and brings.terms else None
    return None


def _is_idle(factors: tuple[Factor, ...], brings: Estimator) -> bool:
    """Whether a product depends only on policies, the tokens before and other responses, apart from
    lengths as divisors."""
    levels: set[Level] = set()
    reads: set[str | Ratio] = set()
    for factor in factors:
        if factor.depends.expected or (factor.depends.on_response and not _divides(factor)):
            return False
        if not _of_length(factor.depends):
            levels |= factor.depends.levels
            reads |= factor.depends.reads
    policies = {"pi", brings.leaf.policy, *brings.distances}
    return bool(levels) and not reads.isdisjoint(policies) and reads <= policies | {"t"}


def _of_length(dependence: Dependence) -> bool:
    return dependence.reads == {"|y|"}


def _divides(factor: Factor) -> bool:
    return factor.exponent < 0 and _of_length(factor.depends)


def _centres(brings: Estimator, estimators: tuple[Estimator, ...]) -> bool:
    """Whether a summand is the mean over others of a penalty that this response has as well: a
    baseline of a penalty in the reward."""
    others = [
        factor.depends
        for term in brings.terms
        for factor in term.factors
        if Level.OTHERS in factor.depends.levels and not _of_length(factor.depends)
    ]
    paid = [
        depends(factor.base)
        for estimator in estimators
        for term in estimator.terms
        for factor in term.factors
        if factor.depends.on_response
    ]
    return bool(others) and all(any(x.reads <= y.reads for y in paid) for x in others)
