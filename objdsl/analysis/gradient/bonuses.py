"""Terms of log-probabilities alone, which look like a bonus for entropy but have no gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.terms import Kind
from objdsl.ir.build import neg, sub
from objdsl.ir.differentiate import weights_of
from objdsl.ir.objective import Objective

# The most terms of a goal that are examined: each costs a derivative.
_MOST_TERMS = 32


def bonuses(
    objective: Objective, estimators: Iterable[Estimator], near: Expand
) -> Iterator[tuple[n.Expr, Estimator]]:
    """The terms of a goal that read only the sampled tokens' probabilities, and whose weight is the
    same number for all responses of a length; each with that weight.

    Args:
        estimators: what the weights of the goal estimate.
        near: formulas as sums of products, with the policies kept apart.
    """
    estimators = tuple(estimators)
    terms = _terms(objective.goal, set(frozen(objective)))
    for term, without in islice(terms, _MOST_TERMS):
        for bonus in _of_lengths(objective, estimators, near, without):
            yield term, bonus


def too_many(objective: Objective) -> bool:
    """Whether there are more such terms than are examined."""
    terms = _terms(objective.goal, set(frozen(objective)))
    return next(islice(terms, _MOST_TERMS, None), None) is not None


def _terms(goal: n.Expr, references: set[str]) -> Iterator[tuple[n.Expr, n.Expr]]:
    """The terms of a goal that read only the sampled tokens' probabilities, each with the goal
    without it."""
    stack = [goal]
    seen: set[n.Expr] = set()
    more = n.holding(partial(_is_more, references), goal)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        match node:
            case n.Binary("add" | "sub" as op, a, b) if a.live and b.live:
                for part, rest in ((a, b if op == "add" else neg(b)), (b, a)):
                    if part not in more:
                        yield part, n.replaced(goal, {node: rest})
                    else:
                        stack.append(part)
            case n.Unary("neg", x) | n.Reduce("sum" | "mean", _, x):
                stack.append(x)
            case n.Peers("sum" | "mean", _, x) if not x.paired:
                stack.append(x)
            case n.Binary("mul" | "div", a, b) if a.live != b.live:
                stack.append(a if a.live else b)


def _is_more(references: set[str], node: n.Expr) -> bool:
    """Whether a value reads more than the policy's probabilities of the sampled tokens: data, or a
    frozen policy."""
    return isinstance(node, n.Column | n.LogDist) or (
        isinstance(node, n.LogProb) and node.policy in references
    )


def _of_lengths(
    objective: Objective, estimators: Iterable[Estimator], near: Expand, without: n.Expr
) -> Iterator[Estimator]:
    """The weight of a term, if it is the same for all responses of a length, whatever the policies
    are."""
    rest = weights_of(replace(objective, goal=without))
    for estimator in estimators:
        if estimator.leaf not in rest:
            continue
        weight = sub(estimator.weight, rest[estimator.leaf])
        bonus = replace(estimator, weight=weight, expand=near)
        reads = {
            name for term in bonus.terms for factor in term.factors for name in factor.depends.reads
        }
        if bonus.of(Kind.SIGNAL):
            continue
        if bonus.expanded is not None and bonus.terms and reads <= {"|y|"}:
            yield replace(bonus, weight=bonus.expanded.expr())
