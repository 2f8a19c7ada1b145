"""Prompts that are kept depending on their responses: whether that biases the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Factors, TooLargeError
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.raised import scale_of
from objdsl.analysis.gradient.terms import Kind
from objdsl.analysis.gradient.weight import Weight
from objdsl.analysis.values.dependence import Level, is_reward
from objdsl.ir.indices import PROMPT

# Rewards of a group count as equal if they differ by no more than this.
_NEARLY_ALIKE = 0.01


def selection_biases(
    weight: Weight, keep: n.Expr, *, centred: bool, raised: Mapping[n.Column, float] | None
) -> bool:
    """Whether the gradient is biased because prompts are kept depending on their responses. It is
    not if dropped groups have no weight of rewards anyway, or if rewards have two values: the
    sampler draws others instead, and prompts are weighted differently."""
    if not weight.depends(keep).on_response:
        return False
    if centred and _is_spread(keep, weight, raised or {}):
        return False
    read = weight.depends(keep)
    only_rewards = len(weight.objective.rewards) == 1 and read.reads == read.rewards
    if not weight.rewards_are_binary or not only_rewards or weight.branch is not None:
        return True
    # An affine function of the response's reward weights a baseline that knows the state.
    levels = (f.depends.levels for term in weight.of(Kind.BASELINE) for f in term.factors)
    return any(Level.PREFIX in of_factor for of_factor in levels)


def is_centred(weight: Weight, keep_factors: frozenset[n.Expr]) -> bool:
    """Whether a group whose rewards are equal has no weight of rewards."""
    keep, rewards = weight.objective.keep, filter(is_reward, n.topological(weight.weight))
    instead: dict[n.Expr, n.Expr] = {
        x: replace(x, over=PROMPT) for x in rewards if isinstance(x, n.Column)
    }
    if keep is not None:
        instead[keep] = keep
    try:
        alike = weight.expand(n.replaced(weight.weight, instead))
    except TooLargeError:
        return False
    return not any(_stands_for_rewards(factors, weight, keep_factors) for factors in alike.terms)


def _stands_for_rewards(factors: Factors, weight: Weight, keep_factors: frozenset[n.Expr]) -> bool:
    """Whether a term is a reward or a baseline; a penalty has terms that are neither."""
    read = [weight.depends(base) for base, _ in factors if base not in keep_factors]
    penalised = frozen(weight.objective)
    return any(x.expected for x in read) or not (penalised or any(x.reads for x in read))


def _is_spread(keep: n.Expr, weight: Weight, raised: Mapping[n.Column, float]) -> bool:
    """Whether a mask is `min < max` or `std > 0` of a group's rewards, or equivalent."""
    match keep:
        case (
            n.Binary("lt" | "ne", a, b)
            | n.Binary("gt", b, a)
            | n.Unary("not", n.Binary("eq", a, b))
        ):
            gap = dict((weight.expand(b) - weight.expand(a)).terms)
        case _:
            return False
    least = -gap.pop(frozenset(), 0.0)
    parts = {base: c for factors, c in gap.items() for base, e in factors if e == 1}
    if len(parts) != len(gap) or not 0 <= least <= _NEARLY_ALIKE:
        return False
    ordered = keep.op in ("lt", "gt") if isinstance(keep, n.Binary) else False
    statistics = {}
    for base, c in parts.items():
        if not (isinstance(base, n.Reduce) and base.over == ("i",)):
            return False
        if not _is_total(base.x, weight, raised):
            return False
        statistics[base.op] = c
    if len(statistics) == 1:
        ((op, c),) = statistics.items()
        return op in ("std", "pstd") and (c > 0 or not ordered)
    most = statistics.get("max", 0.0)
    return statistics == {"max": most, "min": -most} and (most > 0 or not ordered)


def _is_total(x: n.Expr, weight: Weight, raised: Mapping[n.Column, float]) -> bool:
    """Whether a value is the reward, or the sum of rewards that is raised."""
    if len(weight.objective.rewards) < 2:
        return is_reward(x)
    return bool(raised) and scale_of(x, raised, weight.expand) is not None
