"""How an objective leaves the true gradient off policy: which mismatch it corrects, and how far.

Write `d = log pi - log old` and `e = log old - log mu` for each token: what was learned since the
rollout, and what the two engines disagree about. The true weight of a reward is the product of
`pi / mu` over the whole response, `1 + sum[t] (d + e)` to first order. An objective that multiplies
the reward by the token's own ratio has `1 + d_t`; by a geometric mean, `1 + mean[t] d`; by nothing,
1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from enum import Enum

from objdsl.analysis.estimator import Estimator, Kind, Term
from objdsl.analysis.expand import Expand, Sum
from objdsl.frozen import dataclass
from objdsl.ir.nodes import Expr, Length, LogDist, LogProb, Reduce, Scan, Unary, topological


class Reach(Enum):
    """Over which tokens of the response a ratio runs."""

    TOKEN = "the token's own ratio"
    MEAN = "the geometric mean over the response"
    BEFORE = "the product over the tokens before"
    PREFIX = "the product over the tokens so far"
    SEQUENCE = "the product over the response"


@dataclass(frozen=True)
class FirstOrder:
    """The first-order weight of the own reward.

    Attributes:
        drift: the coefficient of `d` by its reach; 1 over `SEQUENCE` is exact, none is 0.
        engine: that of `e`.
    """

    drift: Mapping[Reach, float]
    engine: Mapping[Reach, float]

    @staticmethod
    def times(powers: Mapping[Reach, float]) -> float:
        """How often the mismatch of a token is counted at most, in its own weight or a later
        token's: once is right."""
        own = sum(power for reach, power in powers.items() if reach is not Reach.BEFORE)
        later = (Reach.BEFORE, Reach.PREFIX, Reach.SEQUENCE)
        return max(own, sum(power for reach, power in powers.items() if reach in later))

    @property
    def exact(self) -> bool:
        return self.drift == self.engine == {Reach.SEQUENCE: 1.0}


def first_order(near: Estimator) -> FirstOrder | None:
    """None if the weight of the reward changes with the policies in another way than by ratios.

    Args:
        near: what the weight is near on policy.
    """
    found = [_powers(term, near.expand) for term in near.of(Kind.SIGNAL)]
    if not found or None in found or any(one != found[0] for one in found):
        return None
    powers = found[0] or {}
    return FirstOrder(
        {reach: power for (reach, name), power in powers.items() if name == near.leaf.policy},
        {reach: -power for (reach, name), power in powers.items() if name == "mu"},
    )


def _powers(term: Term, expand: Expand) -> dict[tuple[Reach, str], float] | None:
    """The power to which a product has each policy, over each reach."""
    powers: defaultdict[tuple[Reach, str], float] = defaultdict(float)
    for factor in term.factors:
        if not any(isinstance(node, LogProb | LogDist) for node in topological(factor.base)):
            continue
        if factor.exponent < 0 and factor.depends.pooled and factor.depends.rewards:
            continue  # a deviation of rewards that hold a penalty, and no weight of the response
        ratio = _ratio(factor.base, expand)
        if ratio is None:
            return None
        powers[ratio] += factor.exponent
    for name in {name for _, name in powers}:
        before, own = powers[Reach.BEFORE, name], powers[Reach.TOKEN, name]
        if before and math.isclose(before, own):
            powers[Reach.PREFIX, name] += before
            powers[Reach.BEFORE, name] = powers[Reach.TOKEN, name] = 0.0
    return {ratio: power for ratio, power in powers.items() if abs(power) > 1e-9}


def reach(x: Sum, expand: Expand) -> set[Reach]:
    """Over which tokens the ratios run that a value is a product of; empty if it is another."""
    only = x.product
    ratios = [_ratio(base, expand) for base, _ in only[0]] if only else []
    return {ratio[0] for ratio in ratios if ratio} if all(ratios) else set()


def _ratio(base: Expr, expand: Expand) -> tuple[Reach, str] | None:
    """The reach and the policy of a probability, or of a mean or product of probabilities."""
    only = expand(base.x).product if isinstance(base, Unary) and base.op == "exp" else None
    if only is None or only[1] != 1:
        return None
    match sorted(only[0], key=lambda one: one[1]):
        case [(LogProb(policy), 1.0)]:
            return Reach.TOKEN, policy
        case [(Reduce("sum", ("t",), LogProb(policy), None), 1.0)]:
            return Reach.SEQUENCE, policy
        case [(Length(), -1.0), (Reduce("sum", ("t",), LogProb(policy), None), 1.0)]:
            return Reach.MEAN, policy
        case [(Scan("<", LogProb(policy), None), 1.0)]:
            return Reach.BEFORE, policy
        case [(Scan("<=", LogProb(policy), None), 1.0)]:
            return Reach.PREFIX, policy
    return None


def versions(term: Term, expand: Expand) -> dict[str, float]:
    """The power to which a product has each policy by the ratios of single tokens, whatever its
    other factors are."""
    powers: defaultdict[str, float] = defaultdict(float)
    for factor in term.factors:
        ratio = _ratio(factor.base, expand)
        if ratio is not None and ratio[0] is Reach.TOKEN:
            powers[ratio[1]] += factor.exponent
    return dict(powers)
