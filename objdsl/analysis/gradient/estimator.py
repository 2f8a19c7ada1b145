"""What an objective's gradient estimates, on policy, and which factors of its weight bias it.

The gradient is that of the expected reward if the coefficient of a response's own reward is the
same for every response and token, and nothing else changes with the response (docs/criterion.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Factors
from objdsl.analysis.gradient import harmless, selection
from objdsl.analysis.gradient import raised as rewards
from objdsl.analysis.gradient.terms import Factor, Kind, Term, common_powers
from objdsl.analysis.gradient.weight import Weight
from objdsl.analysis.values.dependence import Level
from objdsl.frozen import dataclass


class Direction(Enum):
    """Where the expected gradient points, compared with that of the expected reward."""

    EXACT = "the gradient of the expected reward, times a constant"
    REWEIGHTED = "the same for each prompt; prompts weigh differently"
    BIASED = "a different one"
    SHAPED = "the gradient of the expected reward and of further terms"
    REVERSED = "down that of the expected reward, or of one that is weighted"
    NONE = "no reward has an effect"
    UNKNOWN = "too large to be read"


@dataclass(frozen=True)
class BiasFactor:
    """A factor that turns the gradient away from that of the expected reward.

    Attributes:
        everywhere: it weights the reward, and with it the baseline; if not, it belongs only to a
            baseline.
    """

    factor: Factor
    everywhere: bool


@dataclass(frozen=True)
class Estimator(Weight):
    """What the weight by one policy's log-probability estimates, on policy."""

    @cached_property
    def direction(self) -> Direction:
        if self.expanded is None or (self.expanded.terms and not self.terms):
            return Direction.UNKNOWN
        if not (self.of(Kind.SIGNAL) or self.bias_factors or self.prompt_weights):
            return Direction.NONE
        if not self.bias_factors and rewards.vanish(self, self._coefficients):
            return Direction.NONE
        if self.lowered and len(self.lowered) == len(self._coefficients):
            return Direction.REVERSED
        if self.bias_factors or self.selection_biases or self.mixing_factors or self.lowered:
            return Direction.BIASED
        if self.prompt_weights and rewards.may_turn(self, self._coefficients):
            return Direction.BIASED
        if self.of(Kind.SHAPING, Kind.PENALTY):
            return Direction.SHAPED
        return Direction.REWEIGHTED if self.prompt_weights else Direction.EXACT

    # --- factors that bias -----------------------------------------------------------------------

    @cached_property
    def bias_factors(self) -> tuple[BiasFactor, ...]:
        """Every factor that changes with the response and weights a reward, its own or others'."""
        factors: dict[tuple[n.Expr, bool], BiasFactor] = {}
        for rewarded in self._by_reward:
            signals = [term for term in rewarded if term.kind is Kind.SIGNAL]
            common, weights = common_powers(signals or rewarded), self._weights(rewarded)
            for term in rewarded:
                whole = self._biasing(term) in weights
                for factor in term.factors:
                    shared = factor.exponent if whole else common.get(factor.base, 0.0)
                    for exponent, everywhere in ((shared, True), (factor.exponent - shared, False)):
                        if not exponent:
                            continue
                        origin = factor.origin
                        if everywhere:
                            origin = self.origins.outermost_mean(origin)
                        part = Factor(factor.base, exponent, factor.depends, origin)
                        if self._biases(part, term):
                            factors.setdefault(
                                (factor.base, everywhere), BiasFactor(part, everywhere)
                            )
        return tuple(factors.values())

    @cached_property
    def _by_reward(self) -> list[list[Term]]:
        """The terms of each reward: its signals, and the baselines that belong to them."""
        terms = self.of(Kind.SIGNAL, Kind.BASELINE)
        names = sorted({term.reward.name for term in terms if term.reward is not None})
        if len(names) < 2:
            return [terms]
        return [[term for term in terms if _stands_for(term, name, names)] for name in names]

    def _weights(self, terms: list[Term]) -> set[Factors]:
        """The products that weight the response's own reward in some of its terms, and are not
        statistics of the group: with `A * (1 + |y|)` it is `|y|` wherever it occurs, as no baseline
        has it."""
        products = {self._biasing(term) for term in terms if term.kind is Kind.SIGNAL}
        pooled = {f.base for term in self.terms for f in term.factors if f.depends.pooled}
        return {x for x in products if x and not any(base in pooled for base, _ in x)}

    def _biasing(self, term: Term) -> Factors:
        return frozenset((f.base, f.exponent) for f in term.factors if self._biases(f, term))

    def _biases(self, factor: Factor, term: Term) -> bool:
        if factor.base in self.keep_factors | self.bootstraps | self.counts_of_others:
            return False
        if self.binary(factor, term):
            # An affine function of the response's reward weights a baseline that knows the state.
            knows = any(Level.PREFIX in other.depends.levels for other in term.factors)
            return factor.depends.on_response and knows
        levels = factor.depends.levels
        # State by state a signal may not be weighted; a baseline may.
        return factor.depends.on_response or (term.kind is Kind.SIGNAL and Level.PREFIX in levels)

    @cached_property
    def keep_factors(self) -> frozenset[n.Expr]:
        """The mask of the prompts that are kept, and the numbers of them and of their responses."""
        return harmless.keep_factors(self)

    @cached_property
    def counts_of_others(self) -> frozenset[n.Expr]:
        """The divisors that count prompts by their responses, and bring no bias."""
        return harmless.counts_of_others(self)

    @cached_property
    def bootstraps(self) -> frozenset[n.Expr]:
        """The factors of a lambda-return, which bring no bias if the critic is exact."""
        return harmless.bootstraps(self)

    # --- prompts ---------------------------------------------------------------------------------

    @cached_property
    def prompt_weights(self) -> tuple[Factor, ...]:
        """Factors by which whole prompts are weighted differently."""
        factors: dict[n.Expr, Factor] = {}
        for term in self.of(Kind.SIGNAL, Kind.BASELINE):
            for factor in term.factors:
                neutral = factor.depends.constant or factor.base in self.bootstraps
                # A statistic in a baseline subtracts more of the response's reward in some prompts.
                weighs = term.kind is Kind.SIGNAL or (
                    factor.depends.pooled and self.binary(factor, term)
                )
                if weighs and not neutral and not self._biases(factor, term):
                    factors[factor.base] = factor
        return tuple(factors.values())

    @cached_property
    def selection_biases(self) -> bool:
        """Whether the gradient is biased because prompts are kept depending on their responses."""
        keep = self.objective.keep
        return keep is not None and selection.selection_biases(
            self, keep, centred=self.centred, raised=self.raised
        )

    @cached_property
    def centred(self) -> bool:
        """Whether a group whose rewards are equal has no weight of rewards."""
        return selection.is_centred(self, self.keep_factors)

    # --- rewards ---------------------------------------------------------------------------------

    @cached_property
    def _coefficients(self) -> dict[n.Column, rewards.Coefficient]:
        return rewards.coefficients(self)

    @cached_property
    def raised(self) -> dict[n.Column, float] | None:
        """The rewards whose expectation the gradient raises, each with its constant, up to a common
        scale; None if they have other factors."""
        return rewards.raised(self._coefficients, self.bootstraps)

    @cached_property
    def lowered(self) -> tuple[n.Column, ...]:
        """The rewards that have a negative sign in the weight, whatever the data."""
        return rewards.lowered(self, self._coefficients)

    @property
    def never_positive(self) -> Iterator[Factor]:
        """The factors of the reward that are never positive, such as a logarithm of `pi`."""
        return rewards.never_positive(self)

    @cached_property
    def mixing_factors(self) -> tuple[Factor, ...]:
        """The factors that weight several rewards differently."""
        return rewards.mixing_factors(self, self._coefficients)

    def scale_of(self, x: n.Expr, constants: Mapping[n.Column, float]) -> float | None:
        """The ratio of the constants in a sum of rewards to these; None if the value is not such a
        sum."""
        return rewards.scale_of(x, constants, self.expand)


def _stands_for(term: Term, name: str, names: list[str]) -> bool:
    """Whether a term is a signal of a reward, or a baseline that reads it, or a baseline that reads
    no reward with a signal. Divisors and masks of a baseline only weight it."""
    if term.reward is not None:
        return term.reward.name == name
    values = {x for factor in term.factors if factor.is_value for x in factor.depends.rewards}
    read = values or {x for factor in term.factors for x in factor.depends.rewards}
    return read.isdisjoint(names) or name in read
