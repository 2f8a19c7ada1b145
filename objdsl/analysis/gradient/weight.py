"""The gradient weight of a policy, on policy, as signals, baselines, penalties and shaping.

With `old = mu = pi` the weight of a token is a sum of products. Each product belongs to one of

    signal      a reward of the own response, times a coefficient
    baseline    rewards of others, or no reward at all
    penalty     a frozen policy
    shaping     something else of the response: its length, a bonus

A reward of a token is its response's as far as it reaches the tokens up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.reductions import GROUP, PROMPTS, RESPONSES
from objdsl.analysis.algebra.sums import Factors, Sum, TooLargeError, ordered
from objdsl.analysis.algebra.symbols import Ratio
from objdsl.analysis.gradient.origins import Origins
from objdsl.analysis.gradient.separate import (
    as_it_reaches_a_token,
    has_two_values,
    match_own_reward,
    separated,
)
from objdsl.analysis.gradient.terms import Factor, Kind, Term, is_value
from objdsl.analysis.values.dependence import Dependence, Level, depends
from objdsl.frozen import dataclass
from objdsl.ir.build import const
from objdsl.ir.declarations import Branch
from objdsl.ir.objective import Objective

GROUP_SIZES = (2, 64)
"""A small and a large group, for files that do not give the size."""

Sizes = Mapping[n.Expr, float]
"""The numbers of responses and prompts."""


@dataclass(frozen=True)
class Weight:
    """The weight by one policy's log-probability, term by term."""

    objective: Objective
    leaf: n.LogProb | n.LogDist
    weight: n.Expr
    expand: Expand

    @cached_property
    def expanded(self) -> Sum | None:
        """The weight as a sum of products; None if it is too large."""
        with suppress(TooLargeError):
            return self.expand(self.weight)
        return None

    @cached_property
    def separated(self) -> Sum:
        """The sum in which every pool is split into the part of the response itself and that of the
        others. Raises TooLargeError."""
        if self.expanded is None:
            raise TooLargeError
        return separated(self.expanded, self.expand, self.branch)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The products of `separated`; none if there are too many."""
        try:
            return tuple(self.term(factors, c) for factors, c in self.separated.terms.items())
        except TooLargeError:
            return ()

    def of(self, *kinds: Kind) -> list[Term]:
        """The terms of some kinds."""
        return [term for term in self.terms if term.kind in kinds]

    @cached_property
    def signals(self) -> tuple[Term, ...]:
        """The products with the response's own reward, before sums over responses are split."""
        expanded = self.expanded or Sum()
        terms = (self.term(factors, c) for factors, c in expanded.terms.items())
        whole = tuple(term for term in terms if term.kind is Kind.SIGNAL)
        return whole or tuple(self.of(Kind.SIGNAL))

    def weighs_own_reward(self, factors: Factors) -> bool:
        """Whether a product contains the reward of the response itself, or a value that changes
        with it; a division by a deviation of rewards alone does not count."""
        above = [self.depends(base) for base, e in factors if e > 0]
        weighs = any(part.rewards and part.on_response for part in above)
        return weighs and not any(
            self.depends(base).reads & self.distances for base, e in factors if is_value(base, e)
        )

    @cached_property
    def distances(self) -> frozenset[Ratio]:
        """The ratios `ref / pi` whose logarithms are distances to a frozen policy."""
        return frozenset(Ratio(policy, to) for policy, to in self.expand.apart.items())

    # --- terms -----------------------------------------------------------------------------------

    def term(self, factors: Factors, coefficient: float) -> Term:
        """A product of the weight, with its role."""
        rewards = [
            (base, reward)
            for base, e in ordered(factors)
            if e == 1 and (reward := match_own_reward(base))
        ]
        whole = next(
            (base for base, reward in rewards if base == as_it_reaches_a_token(reward)), None
        )
        rest = tuple(self._factor(b, e) for b, e in ordered(factors) if whole is None or b != whole)
        reward = next((reward for base, reward in rewards if whole in (base, None)), None)
        kind = self._kind(reward is not None, rest)
        return Term(kind, coefficient, rest, reward if kind is Kind.SIGNAL else None)

    def _kind(self, rewarded: bool, factors: tuple[Factor, ...]) -> Kind:
        # Divisors and masks only weight a term; they do not decide its role.
        values = Dependence()
        for factor in factors:
            if factor.is_value:
                values |= factor.depends
        if values.reads & self.distances:
            return Kind.PENALTY
        if rewarded:
            return Kind.SIGNAL
        if values.expected:
            return Kind.BASELINE
        # A term with a mask or a divisor of rewards is a function of rewards as well.
        own_parts = [factor.depends for factor in factors if factor.depends.on_response]
        return Kind.BASELINE if all(part.expected for part in own_parts) else Kind.SHAPING

    def _factor(self, base: n.Expr, exponent: float) -> Factor:
        """A factor, cached for all terms that have it."""
        factor = self._factors.get((base, exponent))
        if factor is None:
            factor = Factor(base, exponent, self.depends(base), self.origins.of(base))
            self._factors[base, exponent] = factor
        return factor

    def depends(self, base: n.Expr) -> Dependence:
        """What a value depends on."""
        return depends(base, self._depends, self.branch)

    @property
    def branch(self) -> Branch | None:
        """The column that says which responses share tokens."""
        return self.objective.sampling.branch

    @cached_property
    def origins(self) -> Origins:
        return Origins(self.objective.goal, self.weight, self.expand)

    @cached_property
    def _factors(self) -> dict[tuple[n.Expr, float], Factor]:
        return {}

    @cached_property
    def _depends(self) -> dict[n.Expr, Dependence]:
        return {}

    # --- sizes of the step -----------------------------------------------------------------------

    def sized(self, term: Term, sizes: Sizes | None = None) -> tuple[float, tuple[Factor, ...]]:
        """The factors of a product that are sizes of the step, as one number, and its other
        factors: `R - R / G` is less than `R`, and not one signal plus another with the opposite
        sign."""
        sizes = sizes or sizes_of(self.objective.sampling.group or GROUP_SIZES[0])
        number, varying = 1.0, []
        for factor in term.factors:
            size = self._size(factor.base, sizes)
            if size is None or (size == 0 and factor.exponent < 0):
                varying.append(factor)
            else:
                number *= size**factor.exponent
        return number, tuple(varying)

    def _size(self, base: n.Expr, sizes: Sizes) -> float | None:
        """The value of a node that reads only the sizes of the step, as `G - 1` does; None for
        others."""
        if base in sizes:
            return sizes[base]
        if not self.depends(base).constant or sizes.keys().isdisjoint(n.topological(base)):
            return None
        value = self.expand(n.replaced(base, {size: const(x) for size, x in sizes.items()})).number
        return value if value is not None and value >= 0 else None

    # --- rewards of two values -------------------------------------------------------------------

    def binary(self, factor: Factor, term: Term) -> bool:
        """Whether a factor depends only on the rewards of a group, which have two values, such as 0
        and 1, and are those of its product.

        The expectation of such a factor is then an affine function of the response's own reward: it
        weights prompts, and causes no bias. Where responses share tokens, it depends on these, too.
        """
        if self.branch is not None and Level.OTHERS in factor.depends.levels:
            return False
        read = set(factor.depends.rewards)
        read |= {
            name
            for other in term.factors
            if other.depends.on_response
            for name in other.depends.rewards
        }
        if term.reward is not None:
            read.add(term.reward.name)
        return (
            factor.depends.reads == factor.depends.rewards
            and not factor.depends.batch
            and len(read) == 1
            and all(has_two_values(x) for x in self.objective.rewards if x.name in read)
        )

    @cached_property
    def rewards_are_binary(self) -> bool:
        rewards = self.objective.rewards
        return bool(rewards) and all(map(has_two_values, rewards))


def sizes_of(group: int) -> Sizes:
    """The sizes of a step of two prompts."""
    return {GROUP: float(group), PROMPTS: 2.0, RESPONSES: 2.0 * group}
