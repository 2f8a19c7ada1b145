"""The logarithms of probabilities and of their ratios: how far apart policies may be.

Let s be the policy that sampled.

- `E_s[q / s] = 1` for every policy q and any part of a response, so that `q / s > e^20` has a
  probability below 2e-9 (Markov). No ratio to the sampler overflows.
- In the other direction there is no bound. A token that was sampled may have the probability
  `e^-24` under a different policy, and `e^-15` of what it was under one that is a few updates away.
  Over a response this adds up: a KL of 0.05 for each of 4000 tokens is 200.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors, TooLargeError
from objdsl.analysis.values.ranges import Range
from objdsl.ir.build import ZERO, is_size
from objdsl.ir.objective import Objective


class _Granularity(Enum):
    """What has a probability, with the least logarithms of the ratio of two policies."""

    ENTRY = (-100.0, -100.0)
    TOKEN = (-24.0, -15.0)
    MEAN = (-5.0, -5.0)
    RESPONSE = (-10_000.0, -50.0)

    @property
    def far(self) -> float:
        """The least `log(q / s)` of any policy, and the least log-probability."""
        return self.value[0]

    @property
    def near(self) -> float:
        """The least `log(q / s)` of a policy that has learned from these responses alone."""
        return self.value[1]

    @property
    def most(self) -> float:
        """The largest `log(q / s)`."""
        return 5.0 if self is _Granularity.MEAN else 20.0


LEAST_LOG_PROB = _Granularity.ENTRY.far
"""The least log-probability of an entry of the vocabulary."""


@dataclasses.dataclass
class Logarithms:
    """The ranges of sums of log-probabilities."""

    objective: Objective
    expand: Expand
    _known: dict[n.Expr, bool] = field(default_factory=dict)
    _this: dict[n.Expr, n.Expr] = field(default_factory=dict)
    _others: dict[n.Expr, n.Expr] = field(default_factory=dict)

    def is_of_response(self, x: n.Expr) -> bool:
        """Whether a value is the log-probability of a response, rather than a log-ratio of two."""
        linear = self._coefficients(self._of_this_response(x))
        if linear is None:
            return False
        return abs(sum(linear[1].get(_Granularity.RESPONSE, {}).values())) > 1e-9

    def range_of(self, node: n.Expr) -> Range | None:
        """The range of a sum of log-probabilities; None for other values."""
        this_response = self._of_this_response(node)
        linear = self._coefficients(this_response)
        if linear is None:
            return None
        if this_response is not node and not self._divides(node, linear[1]):
            return None
        low = high = linear[0]
        for granularity, powers in linear[1].items():
            ends = [self._distance(policy, granularity) for policy in powers]
            total = sum(powers.values())
            if len(powers) == 1:
                ends, total = [(granularity.far, 0.0)], 0.0  # a probability is at most 1
            elif abs(total) > 1e-9:
                # The part that does not cancel is the probability under the sampler itself.
                low, high = (
                    low + min(total * granularity.far, 0.0),
                    high + max(total * granularity.far, 0.0),
                )
            for power, (least, most) in zip(powers.values(), ends, strict=True):
                low += min(power * least, power * most)
                high += max(power * least, power * most)
        return Range(low, high)

    def _divides(self, node: n.Expr, powers: Mapping[_Granularity, Mapping[str, float]]) -> bool:
        """Whether a value is divided by sums over a group, rather than multiplied by them. A sum is
        at least the probability of this response, but that of the best one may be far from it."""
        rest = self._coefficients(self._without_sums(node))
        left = {} if rest is None else rest[1]
        return all(
            power <= left.get(granularity, {}).get(policy, 0.0)
            for granularity, by_policy in powers.items()
            for policy, power in by_policy.items()
        )

    def _coefficients(
        self, node: n.Expr
    ) -> tuple[float, Mapping[_Granularity, Mapping[str, float]]] | None:
        """A sum of log-probabilities as a constant and the coefficient of each; None for other
        values."""
        if not self.is_sum(node):
            return None
        try:
            terms = self.expand(node).terms
        except TooLargeError:
            return None
        powers: defaultdict[_Granularity, defaultdict[str, float]]
        powers = defaultdict(lambda: defaultdict(float))
        for factors, c in terms.items():
            log_prob = _match_log_prob(factors)
            if log_prob is not None:
                granularity, policy = log_prob
                powers[granularity][policy] += c
            elif factors:
                return None
        return terms.get(frozenset(), 0.0), powers

    def _of_this_response(self, x: n.Expr) -> n.Expr:
        """A value with this response's part in place of the logarithms of sums over a group."""
        return _with_sums(x, self._this, lambda summand: self._this[summand])

    def _without_sums(self, x: n.Expr) -> n.Expr:
        """A value with 0 in place of the logarithms of sums over a group."""
        return _with_sums(x, self._others, lambda _: ZERO)

    def is_sum(self, node: n.Expr) -> bool:
        """Whether a value has the form of a sum of log-probabilities, as far as `_match_sum`
        sees."""
        known = self._known.get(node)
        if known is None:
            known = self._known[node] = self._match_sum(node)
        return known

    def _match_sum(self, node: n.Expr) -> bool:
        """The same, where the operands are known. What has no such form is no sum."""
        match node:
            case n.LogProb() | n.LogDist():
                return True
            case n.Unary("neg", x) | n.Stop(x) | n.Reduce("sum" | "mean", ("t",), x, None):
                return self.is_sum(x)
            case n.Scan(_, x, None):
                return self.is_sum(x)
            case n.Binary("add" | "sub", a, b):
                first, second = self.is_sum(a), self.is_sum(b)
                return (first or is_size(a)) and (second or is_size(b)) and (first or second)
            case n.Binary("mul", a, b):
                return (is_size(a) and self.is_sum(b)) or (is_size(b) and self.is_sum(a))
            case n.Binary("div", a, b):
                return is_size(b) and self.is_sum(a)
        return False

    def _distance(self, policy: str, granularity: _Granularity) -> tuple[float, float]:
        """The range of `log(policy / sampler)`."""
        if policy == self.objective.sampling.policy:
            return 0.0, 0.0
        engines = policy in ("old", "mu")
        learned = policy == "pi" and bool(self.objective.rewards)
        return (granularity.near if engines or learned else granularity.far), granularity.most


def _with_sums(x: n.Expr, known: dict[n.Expr, n.Expr], part: Callable[[n.Expr], n.Expr]) -> n.Expr:
    """A value with a part of its summand in place of each logarithm of a sum over a group, and with
    0 for the logarithms of sizes, which are small.

    Args:
        known: the values that were replaced so far; it is extended.
    """

    def replaced(node: n.Expr) -> n.Expr:
        match node:
            case n.Reduce("logsumexp", _, summand, None):
                return part(summand)
            case n.Unary("log", size) if is_size(size):
                return ZERO
        return node.rebuilt(known)

    return n.bottom_up(x, known, replaced)


def _match_log_prob(factors: Factors) -> tuple[_Granularity, str] | None:
    """The granularity and the policy of a product that is a log-probability, summed or not; None
    for others."""
    match sorted(factors, key=lambda power: power[1]):
        case [(n.LogProb(policy), 1.0)]:
            return _Granularity.TOKEN, policy
        case [(n.LogDist(policy), 1.0)]:
            return _Granularity.ENTRY, policy
        case [(n.Reduce("sum", ("t",), n.LogProb(policy), None), 1.0)] | [
            (n.Scan(_, n.LogProb(policy), None), 1.0)
        ]:
            return _Granularity.RESPONSE, policy
        case [(n.Length(), -1.0), (n.Reduce("sum", ("t",), n.LogProb(policy), None), 1.0)]:
            return _Granularity.MEAN, policy
    return None
