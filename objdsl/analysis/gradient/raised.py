"""Which rewards the gradient raises, and with which constants."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, TooLargeError, interval
from objdsl.analysis.gradient.separate import (
    as_it_reaches_a_token,
    is_past_reward,
    rewards_to_go,
)
from objdsl.analysis.gradient.terms import Factor, Kind, powers
from objdsl.analysis.gradient.weight import GROUP_SIZES, Sizes, Weight, sizes_of

# The relative rounding error of coefficients that cancel.
_ROUNDING = 1e-12

Coefficient = Mapping[frozenset[Factor], float]
"""The coefficient of a reward: a number for each product of factors that are not sizes."""


def coefficients(weight: Weight) -> dict[n.Column, Coefficient]:
    """The coefficient of each reward of the response itself, in all signals together."""
    sizes = sizes_of(weight.objective.sampling.group or GROUP_SIZES[1])
    return {
        reward: _coefficient(weight, reward, sizes)
        for reward in weight.objective.rewards
        if any(term.reward == reward for term in weight.terms)
    }


def _coefficient(weight: Weight, reward: n.Column, sizes: Sizes) -> Coefficient:
    totals: defaultdict[frozenset[Factor], float] = defaultdict(float)
    for term in weight.of(Kind.SIGNAL):
        if term.reward == reward:
            size, varying = weight.sized(term, sizes)
            totals[frozenset(varying)] += size * term.coefficient
    largest = max(map(abs, totals.values()), default=0.0)
    return {key: total for key, total in totals.items() if abs(total) > _ROUNDING * largest}


def vanish(weight: Weight, rewards: Collection[n.Column]) -> bool:
    """Whether the response's own rewards cancel: in `reward - mean[i] reward` in a group of one, or
    in a mean over others of the means over theirs in a group of two."""
    group = weight.objective.sampling.group
    if group is None or not rewards:
        return False
    return not any(_coefficient(weight, reward, sizes_of(group)) for reward in rewards)


def lowered(weight: Weight, rewards: Collection[n.Column]) -> tuple[n.Column, ...]:
    """The rewards that have a negative sign in the weight, whatever the data."""
    group = weight.objective.sampling.group
    sizes = [sizes_of(size) for size in ((group,) if group else GROUP_SIZES)]
    # A square of the response's reward, or a mask by it, rises or falls with the reward, too.
    parts = [f.depends for term in weight.of(Kind.BASELINE) for f in term.factors]
    unclear = {
        name for d in parts if d.rewards and d.on_response and not d.pooled for name in d.rewards
    }
    return tuple(
        reward
        for reward in rewards
        if reward.name not in unclear
        and all(_never_positive(_coefficient(weight, reward, each)) for each in sizes)
    )


def _never_positive(coefficient: Coefficient) -> bool:
    products = [Sum({powers(factors): c}) for factors, c in coefficient.items()]
    return bool(products) and all(interval(product)[1] <= 0 for product in products)


def may_turn(weight: Weight, coefficients: Mapping[n.Column, Coefficient]) -> bool:
    """Whether a statistic of the group may subtract more of a reward of two values than there is,
    as the mean of the best does: for some prompts the reward is then lowered."""
    return any(_takes_all(weight, reward, c) for reward, c in coefficients.items())


def _takes_all(weight: Weight, reward: n.Column, coefficient: Coefficient) -> bool:
    left, _ = interval(Sum({powers(factors): c for factors, c in coefficient.items()}))
    weighs = {factor.base for factors in coefficient for factor in factors}
    taken = 0.0
    for term in weight.of(Kind.BASELINE):
        size, varying = weight.sized(term)
        statistics = [f for f in varying if f.depends.pooled and weight.binary(f, term)]
        if statistics and weighs.isdisjoint(f.base for f in statistics):
            low, high = interval(Sum({powers(varying): size * term.coefficient}))
            taken += (high - low) / (max(reward.values) - min(reward.values))
    return taken > left >= 0


def never_positive(weight: Weight) -> Iterator[Factor]:
    """The factors of the reward that are never positive, such as a logarithm of `pi`."""
    for term in weight.of(Kind.SIGNAL):
        for factor in term.factors:
            if interval(Sum({powers((factor,)): 1.0}))[1] <= 0:
                yield factor


def mixing_factors(
    weight: Weight, coefficients: Mapping[n.Column, Coefficient]
) -> tuple[Factor, ...]:
    """The factors that weight several rewards differently: their relative weights are then not
    constant, even if for each prompt the gradient is that of a sum of rewards."""
    totals = [total for total in coefficients.values() if total]
    if len(totals) < 2:
        return ()
    mixing: dict[n.Expr, Factor] = {}
    first = totals[0]
    for other in totals[1:]:
        ratios = [other[key] / first[key] for key in other if key in first]
        differing = first.keys() ^ other.keys()
        if not differing and not all(math.isclose(x, ratios[0]) for x in ratios):
            differing = first.keys() | other.keys()
        mixing |= {f.base: f for key in differing for f in key if not f.depends.constant}
    for term in weight.of(Kind.BASELINE):
        for factor in term.factors:
            if factor.depends.pooled and weight.binary(factor, term):
                mixing[factor.base] = factor
    return tuple(mixing.values())


def raised(
    coefficients: Mapping[n.Column, Coefficient], bootstraps: frozenset[n.Expr]
) -> dict[n.Column, float] | None:
    """The rewards whose expectation the gradient raises, each with its constant, up to a common
    scale; None if they have other factors."""
    constants: dict[n.Column, float] = {}
    for reward, coefficient in coefficients.items():
        for factors, c in coefficient.items():
            if any(f.base not in bootstraps for f in factors if not f.depends.constant):
                return None
            constants[reward] = constants.get(reward, 0.0) + c
    return constants or None


def scale_of(x: n.Expr, constants: Mapping[n.Column, float], expand: Expand) -> float | None:
    """The ratio of the constants in a sum of rewards to these; None if the value is not such a
    sum."""
    try:
        terms = rewards_to_go(expand(x)).terms
    except TooLargeError:
        return None
    parts = {
        frozenset({(as_it_reaches_a_token(reward), 1.0)}): c for reward, c in constants.items()
    }
    past = {key for key in terms if all(b.indices and is_past_reward(b) for b, _ in key)}
    if (terms.keys() - past) != parts.keys():
        return None
    ratios = [terms[key] / c for key, c in parts.items()]
    return ratios[0] if all(math.isclose(r, ratios[0]) for r in ratios) else None
