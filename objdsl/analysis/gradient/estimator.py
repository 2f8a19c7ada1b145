"""What an objective's gradient estimates, on policy: its weight `w`, factor by factor.

With `old = mu = pi` the weight of a token is a sum of products. Each product belongs to one of

    signal      a reward of the own response, times a coefficient
    baseline    rewards of others, or no reward at all
    penalty     a frozen policy

    shaping     something else of the response: its length, a bonus

and the gradient follows that of the expected reward if the coefficient of each own reward is the
same for every response and token, and nothing else changes with the response (docs/criterion.md).
A reward of a token is its response's as far as it reaches the tokens up to it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.complements import joined
from objdsl.analysis.algebra.expand import (
    GROUP,
    PROMPTS,
    RESPONSES,
    Expand,
    Factors,
    Sum,
    TooLargeError,
    atom,
    interval,
    number,
    ordered,
)
from objdsl.analysis.algebra.symbols import Elsewhere, Ratio
from objdsl.analysis.values.dependence import Dependence, Level, depends, is_reward
from objdsl.analysis.values.guards import leaves_nothing_out, without_idle
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO, const, count, div, real
from objdsl.ir.columns import is_critic
from objdsl.ir.indices import PROMPT, RESPONSE, TOKEN, Indices
from objdsl.ir.objective import Objective

# Groups, small and large, where a file does not say how large they are.
_GROUPS = (2, 64)
# Rewards of a group that lie no further apart are alike.
_NEARLY_ALIKE = 0.01
# What rounding leaves of coefficients that cancel, as a part of them.
_ROUNDING = 1e-12

_AT_THE_END = n.Binary("eq", n.Position(), n.Length())
_LAST = real(_AT_THE_END)


class Kind(Enum):
    """What a product of the weight is there for."""

    SIGNAL = "signal"
    BASELINE = "baseline"
    SHAPING = "shaping"
    PENALTY = "penalty"


@dataclass(frozen=True)
class Factor:
    """A node with a power, what it depends on, and the node of the file that brought it."""

    base: n.Expr
    exponent: float
    depends: Dependence
    origin: n.Expr


@dataclass(frozen=True)
class Term:
    """One product of the weight.

    Attributes:
        factors: the own reward of a signal is not among them, unless it is that of a token and does
            not reach all tokens up to it alike: discounted, or at its own token alone.
        reward: which one it is, of a signal.
    """

    kind: Kind
    coefficient: float
    factors: tuple[Factor, ...]
    reward: n.Column | None = None


class Direction(Enum):
    """Where the expected gradient points, beside that of the expected reward."""

    EXACT = "the gradient of the expected reward, times a constant"
    REWEIGHTED = "the same for each prompt; prompts weigh differently"
    BIASED = "another one"
    SHAPED = "the gradient of the expected reward and of further terms"
    REVERSED = "down that of the expected reward, or of one that is weighted"
    NONE = "no reward has an effect"
    UNKNOWN = "too large to be read"


@dataclass(frozen=True)
class Bend:
    """A factor that bends the gradient away from that of the expected reward.

    Attributes:
        everywhere: it weighs the reward, and with it what is subtracted; if not, it belongs to a
            baseline.
    """

    factor: Factor
    everywhere: bool


@dataclass(frozen=True)
class Estimator:
    """The weight by one policy's log-probability, on policy."""

    objective: Objective
    leaf: n.LogProb | n.LogDist
    weight: n.Expr
    expand: Expand

    @cached_property
    def expanded(self) -> Sum | None:
        try:
            return self.expand(self.weight)
        except TooLargeError:
            return None

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The products, each pool's own part apart from that of the others."""
        try:
            return tuple(self._term(factors, c) for factors, c in self.separate.terms.items())
        except TooLargeError:
            return ()

    @cached_property
    def separate(self) -> Sum:
        """The weight as a sum of products, each pool's own part apart from that of the others.
        Raises TooLargeError."""
        if self.expanded is None:
            raise TooLargeError
        plain = without_idle(joined(self.expanded, self.expand), self.expand)
        split = self.expand.reduced(_split(plain, self.expand))
        return _to_go(_affine(split, self.expand))

    def weighs_own_reward(self, factors: Factors) -> bool:
        """Whether a product is the reward of the response that is weighted, or a value that changes
        with it; what is merely divided by a deviation of rewards is not."""
        above = [depends(base, self._depends) for base, e in factors if e > 0]
        weighs = any(one.rewards and one.own for one in above)
        return weighs and not any(
            depends(base, self._depends).reads & self.distances
            for base, e in factors
            if _is_above(base, e)
        )

    def changed(self, weight: n.Expr) -> Estimator:
        """The same of another weight by the same log-probability."""
        return replace(self, weight=weight)

    @cached_property
    def signals(self) -> tuple[Term, ...]:
        """The products that hold the own reward, before sums over responses are taken apart."""
        expanded = self.expanded or Sum()
        terms = (self._term(factors, c) for factors, c in expanded.terms.items())
        plain = tuple(term for term in terms if term.kind is Kind.SIGNAL)
        return plain or tuple(self.of(Kind.SIGNAL))

    def of(self, *kinds: Kind) -> list[Term]:
        return [term for term in self.terms if term.kind in kinds]

    @cached_property
    def bends(self) -> tuple[Bend, ...]:
        """Every factor that changes with the response and weighs a reward, own or others'."""
        found: dict[tuple[n.Expr, bool], Bend] = {}
        for rewarded in self._by_reward:
            signals = [term for term in rewarded if term.kind is Kind.SIGNAL]
            shared, weights = _shared(signals or rewarded), self._weights(rewarded)
            for term in rewarded:
                whole = self._bending(term) in weights
                for factor in term.factors:
                    common = factor.exponent if whole else shared.get(factor.base, 0.0)
                    for exponent, everywhere in ((common, True), (factor.exponent - common, False)):
                        if not exponent:
                            continue
                        origin = self._outer(factor.origin) if everywhere else factor.origin
                        part = Factor(factor.base, exponent, factor.depends, origin)
                        if self._bends(part, term):
                            found.setdefault((factor.base, everywhere), Bend(part, everywhere))
        return tuple(found.values())

    @cached_property
    def _by_reward(self) -> list[list[Term]]:
        """The terms of each reward: its signals, and the baselines that may stand for it."""
        terms = self.of(Kind.SIGNAL, Kind.BASELINE)
        names = sorted({term.reward.name for term in terms if term.reward is not None})
        if len(names) < 2:
            return [terms]
        return [[term for term in terms if _stands_for(term, name)] for name in names]

    def _weights(self, terms: list[Term]) -> set[Factors]:
        """What weighs the own reward in some of its terms, and is no statistic of the group: with
        `A * (1 + |y|)` it is `|y|`, wherever it stands, for no baseline brings that."""
        products = {self._bending(term) for term in terms if term.kind is Kind.SIGNAL}
        pooled = {f.base for term in self.terms for f in term.factors if f.depends.pooled}
        return {one for one in products if one and not any(base in pooled for base, _ in one)}

    def _bending(self, term: Term) -> Factors:
        return frozenset((f.base, f.exponent) for f in term.factors if self._bends(f, term))

    @cached_property
    def prompt_weights(self) -> tuple[Factor, ...]:
        """Factors by which whole prompts weigh differently."""
        found: dict[n.Expr, Factor] = {}
        for term in self.of(Kind.SIGNAL, Kind.BASELINE):
            for factor in term.factors:
                harmless = factor.depends.constant or factor.base in self.bootstraps
                # In a baseline, what takes away more of the own reward here and less of it there.
                weighs = term.kind is Kind.SIGNAL or (
                    factor.depends.pooled and self.binary(factor, term)
                )
                if weighs and not harmless and not self._bends(factor, term):
                    found[factor.base] = factor
        return tuple(found.values())

    @cached_property
    def direction(self) -> Direction:
        if self.expanded is None or (self.expanded.terms and not self.terms):
            return Direction.UNKNOWN
        if not (self.of(Kind.SIGNAL) or self.bends or self.prompt_weights):
            return Direction.NONE
        if not self.bends and self.vanishes:
            return Direction.NONE
        if self.falling and len(self.falling) == len(self._coefficients):
            return Direction.REVERSED
        if self.bends or self.chosen or self.mixed or self.falling:
            return Direction.BIASED
        if self.of(Kind.SHAPING, Kind.PENALTY):
            return Direction.SHAPED
        return Direction.REWEIGHTED if self.prompt_weights else Direction.EXACT

    @cached_property
    def vanishes(self) -> bool:
        """Whether every own reward comes with its negative: `reward - mean[i] reward` in a group of
        one, or a mean over others of the means over theirs in a group of two."""
        group = self.objective.sampling.group
        if group is None or not self._coefficients:
            return False
        return not any(self._totals(reward, _sizes(group)) for reward in self._coefficients)

    @cached_property
    def falling(self) -> tuple[n.Column, ...]:
        """The rewards that stand in the weight with a minus, whatever the data: what is trained
        lowers them, or what a bent gradient takes for them."""
        group = self.objective.sampling.group
        sizes = [*map(_sizes, (group,) if group else _GROUPS)]
        # A square of the own reward, or a mask by it, rises or falls with the reward, too.
        own = [f.depends for term in self.of(Kind.BASELINE) for f in term.factors]
        unclear = {name for d in own if d.rewards and d.own and not d.pooled for name in d.rewards}
        return tuple(
            reward
            for reward in self._coefficients
            if reward.name not in unclear and all(self._falls(reward, each) for each in sizes)
        )

    @cached_property
    def _coefficients(self) -> dict[n.Column, dict[frozenset[Factor], float]]:
        """What each own reward is multiplied by: a sum of products that are not of sizes alone."""
        group = self.objective.sampling.group or _GROUPS[1]
        return {
            column: self._totals(column, _sizes(group))
            for column in self.objective.rewards
            if any(term.reward == column for term in self.terms)
        }

    def _totals(
        self, reward: n.Column, sizes: dict[n.Expr, float]
    ) -> dict[frozenset[Factor], float]:
        totals: defaultdict[frozenset[Factor], float] = defaultdict(float)
        for term in self.of(Kind.SIGNAL):
            if term.reward == reward:
                size, varying = self.sized(term, sizes)
                totals[frozenset(varying)] += size * term.coefficient
        largest = max(map(abs, totals.values()), default=0.0)
        return {key: total for key, total in totals.items() if abs(total) > _ROUNDING * largest}

    @cached_property
    def mixed(self) -> tuple[Factor, ...]:
        """Of several rewards, what weighs them apart from each other: how much each of them counts
        is then no constant, even where for each prompt the gradient is that of a sum of rewards."""
        totals = [total for total in self._coefficients.values() if total]
        if len(totals) < 2:
            return ()
        found: dict[n.Expr, Factor] = {}
        first = totals[0]
        for other in totals[1:]:
            ratios = [other[key] / first[key] for key in other if key in first]
            apart = first.keys() ^ other.keys()
            if not apart and not all(math.isclose(x, ratios[0]) for x in ratios):
                apart = first.keys() | other.keys()
            found |= {f.base: f for key in apart for f in key if not f.depends.constant}
        for term in self.of(Kind.BASELINE):
            for factor in term.factors:
                if factor.depends.pooled and self.binary(factor, term):
                    found[factor.base] = factor
        return tuple(found.values())

    @cached_property
    def raised(self) -> dict[n.Column, float] | None:
        """The rewards of which the gradient raises the expectation, each with its constant, up to a
        scale; None where there is another factor beside them."""
        found: dict[n.Column, float] = {}
        for reward, total in self._coefficients.items():
            for key, coefficient in total.items():
                varies = (f for f in key if not f.depends.constant)
                if any(f.base not in self.bootstraps for f in varies):
                    return None
                found[reward] = found.get(reward, 0.0) + coefficient
        return found or None

    @property
    def negative(self) -> Iterator[Factor]:
        """What the reward is multiplied by that is never above 0, as a logarithm of `pi` is."""
        for term in self.of(Kind.SIGNAL):
            for factor in term.factors:
                power = frozenset({(factor.base, factor.exponent)})
                if interval(Sum({power: 1.0}))[1] <= 0:
                    yield factor

    def _falls(self, reward: n.Column, sizes: dict[n.Expr, float]) -> bool:
        left = [
            Sum({frozenset((f.base, f.exponent) for f in key): total})
            for key, total in self._totals(reward, sizes).items()
        ]
        return bool(left) and all(interval(product)[1] <= 0 for product in left)

    def sized(
        self, term: Term, sizes: dict[n.Expr, float] | None = None
    ) -> tuple[float, tuple[Factor, ...]]:
        """What the sizes of the step make of a product, as a number, and its other factors: of `R -
        R / G` there is less than of `R`, and not one thing added and another taken away."""
        sizes = sizes or _sizes(self.objective.sampling.group or _GROUPS[0])
        product, varying = 1.0, []
        for factor in term.factors:
            size = self._size(factor.base, sizes)
            if size is None or (size == 0 and factor.exponent < 0):
                varying.append(factor)
            else:
                product *= size**factor.exponent
        return product, tuple(varying)

    def _size(self, base: n.Expr, sizes: dict[n.Expr, float]) -> float | None:
        """What a value is that reads the sizes of the step alone, as `G - 1` does."""
        if base in sizes:
            return sizes[base]
        if not depends(base, self._depends).constant or sizes.keys().isdisjoint(
            n.topological(base)
        ):
            return None
        value = self.expand(n.replaced(base, {size: const(x) for size, x in sizes.items()})).number
        return value if value is not None and value >= 0 else None

    def binary(self, factor: Factor, term: Term) -> bool:
        """Whether it depends on nothing but rewards of a group that have two values, as 0 and 1,
        and are those of its product.

        The expectation of such a factor is then an affine function of the own reward: it weighs
        prompts, and bends nothing.
        """
        read = set(factor.depends.rewards)
        read |= {
            name for other in term.factors if other.depends.own for name in other.depends.rewards
        }
        if term.reward is not None:
            read.add(term.reward.name)
        return (
            factor.depends.reads == factor.depends.rewards
            and not factor.depends.batch
            and len(read) == 1
            and all(_two_values(x) for x in self.objective.rewards if x.name in read)
        )

    @cached_property
    def rewards_are_binary(self) -> bool:
        rewards = self.objective.rewards
        return bool(rewards) and all(map(_two_values, rewards))

    def _bends(self, factor: Factor, term: Term) -> bool:
        if factor.base in self.kept | self.bootstraps | self.counts_of_others:
            return False
        if self.binary(factor, term):
            # An affine function of the own reward: it weighs a baseline that knows the state.
            knows = any(Level.PREFIX in other.depends.levels for other in term.factors)
            return factor.depends.own and knows
        levels = factor.depends.levels
        # State by state a signal may not be weighted; a baseline may.
        return factor.depends.own or (term.kind is Kind.SIGNAL and Level.PREFIX in levels)

    @cached_property
    def counts_of_others(self) -> frozenset[n.Expr]:
        """The divisors that count prompts by their responses, where those that are not counted have
        no weight of rewards: to each of the others that is one, and what the other prompts add."""
        terms = self.expanded.terms if self.expanded else {}
        kinds = Kind.SIGNAL, Kind.BASELINE
        rewarded = {f: c for f, c in terms.items() if self._term(f, c).kind in kinds}
        found: set[n.Expr] = set()
        for base in {base for factors in rewarded for base, e in factors if e < 0}:
            mask = _counted_prompts(base)
            only = None if mask is None else self.expand(mask).product
            if only is None or len(only[0]) != 1:
                continue
            (held, _), *_ = only[0]
            under = {f: c for f, c in rewarded.items() if (base, -1.0) in f}
            left = Sum({f - {(base, -1.0)}: c for f, c in under.items()})
            with suppress(TooLargeError):
                if leaves_nothing_out(held, left, self.expand):
                    found.add(base)
        return frozenset(found)

    @cached_property
    def bootstraps(self) -> frozenset[n.Expr]:
        """The factors of a lambda-return: no bias, if the critic is exact.

        With `d` for lambda it is `d^(n - t) R + (1/d - 1) sum[s >= t] d^(s - t) V_s - V_t / d`:
        what the reward loses by `d` the later values bring. For 0 it is the reward, with the last
        token, and before that the next value.
        """
        discounts = {
            factor.base: term.coefficient
            for term in self.of(Kind.SIGNAL)
            for factor in term.factors
            if isinstance(factor.base, n.Scan) and factor.base.decay is not None
        }
        tokens = {reward for reward in self.objective.rewards if reward.over == TOKEN}
        paid: list[n.Expr] = [_LAST, *tokens]
        at_the_end = {
            term.coefficient
            for term in self.of(Kind.SIGNAL)
            if any(factor.base == _AT_THE_END or factor.base in tokens for factor in term.factors)
        }
        found: set[n.Expr] = set()
        for term in self.of(Kind.BASELINE):
            for factor in term.factors:
                match factor.base:
                    case n.Scan(">=", value, n.Const(d) as decay) if is_critic(value):
                        returns = {replace(factor.base, x=x) for x in paid} & discounts.keys()
                        lost = [discounts[x] * (1 / d - 1) for x in returns]
                        alike = all(math.isclose(term.coefficient, x) for x in lost)
                        if lost and alike and decay.value < 1:
                            found |= {factor.base, *returns}
                    case n.Shift(value, 1) if is_critic(value) and term.coefficient in at_the_end:
                        found |= {factor.base, _AT_THE_END, *tokens}
        return frozenset(found)

    @cached_property
    def kept(self) -> frozenset[n.Expr]:
        """The prompts that count, as a mask and as the number of them or of their responses."""
        keep = self.objective.keep
        if keep is None:
            return frozenset()
        counted = (keep, count(("p",), keep), count(("p", "i"), keep))
        forms = [form for x in counted for form in (x, div(ONE, x))]
        return frozenset(base for x in forms for f in self.expand(x).terms for base, _ in f)

    @cached_property
    def chosen(self) -> bool:
        """Whether it bends the gradient that prompts count by what their responses are. It does
        not where groups that are left out have no weight of rewards anyway, or where rewards have
        two values: the sampler draws others instead, and prompts weigh differently."""
        keep = self.objective.keep
        if keep is None or not depends(keep, self._depends).own:
            return False
        if self.centred and self._tells_apart(keep):
            return False
        read = depends(keep, self._depends)
        alone = len(self.objective.rewards) == 1 and read.reads == read.rewards
        if not self.rewards_are_binary or not alone:
            return True
        # An affine function of the own reward; see `_bends`.
        levels = (f.depends.levels for term in self.of(Kind.BASELINE) for f in term.factors)
        return any(Level.PREFIX in one for one in levels)

    @cached_property
    def centred(self) -> bool:
        """Whether rewards that are alike in a group have no weight in it."""
        keep, rewards = self.objective.keep, filter(is_reward, n.topological(self.weight))
        instead: dict[n.Expr, n.Expr] = {
            x: replace(x, over=PROMPT) for x in rewards if isinstance(x, n.Column)
        }
        if keep is not None:
            instead[keep] = keep
        try:
            alike = self.expand(n.replaced(self.weight, instead))
        except TooLargeError:
            return False
        return not any(self._stands_for_rewards(factors) for factors in alike.terms)

    def _stands_for_rewards(self, factors: Factors) -> bool:
        """Whether a term is a reward or a baseline; a penalty brings terms without either, too."""
        read = [depends(base, self._depends) for base, _ in factors if base not in self.kept]
        penalised = frozen(self.objective)
        return any(x.expected for x in read) or not (penalised or any(x.reads for x in read))

    def _tells_apart(self, keep: n.Expr) -> bool:
        """Whether a mask is `min < max` or `std > 0` of a group's rewards, or says the same."""
        match keep:
            case (
                n.Binary("lt" | "ne", a, b)
                | n.Binary("gt", b, a)
                | n.Unary("not", n.Binary("eq", a, b))
            ):
                gap = dict((self.expand(b) - self.expand(a)).terms)
            case _:
                return False
        least = -gap.pop(frozenset(), 0.0)
        parts = {base: c for factors, c in gap.items() for base, e in factors if e == 1}
        if len(parts) != len(gap) or not 0 <= least <= _NEARLY_ALIKE:
            return False
        ordered = keep.op in ("lt", "gt") if isinstance(keep, n.Binary) else False
        found = {}
        for base, c in parts.items():
            if not (isinstance(base, n.Reduce) and base.over == ("i",) and self._is_total(base.x)):
                return False
            found[base.op] = c
        if len(found) == 1:
            (op, c) = found.popitem()
            return op in ("std", "pstd") and (c > 0 or not ordered)
        widest = found.get("max", 0.0)
        return found == {"max": widest, "min": -widest} and (widest > 0 or not ordered)

    def _is_total(self, x: n.Expr) -> bool:
        """Whether a value is the reward, or the sum of rewards that is raised."""
        if len(self.objective.rewards) < 2:
            return is_reward(x)
        return bool(self.raised) and self.scale_of(x, self.raised or {}) is not None

    def scale_of(self, x: n.Expr, constants: Mapping[n.Column, float]) -> float | None:
        """By which the constants of rewards become those that a value adds them up with; None if
        it adds up anything else."""
        try:
            terms = _to_go(self.expand(x)).terms
        except TooLargeError:
            return None
        parts = {frozenset({(_whole(column), 1.0)}): c for column, c in constants.items()}
        known = {key for key in terms if all(f[0].indices and _is_past(f[0]) for f in key)}
        if (terms.keys() - known) != parts.keys():
            return None
        ratios = [terms[key] / c for key, c in parts.items()]
        return ratios[0] if all(math.isclose(r, ratios[0]) for r in ratios) else None

    @cached_property
    def distances(self) -> frozenset[Ratio]:
        """The ratios `ref / pi` whose logarithms are distances to a frozen policy."""
        return frozenset(Ratio(policy, to) for policy, to in self.expand.apart.items())

    def _term(self, factors: Factors, coefficient: float) -> Term:
        own = [(base, reward) for base, e in ordered(factors) if e == 1 and (reward := _own(base))]
        whole = next((base for base, reward in own if base == _whole(reward)), None)
        rest = tuple(self._factor(x) for x in ordered(factors) if whole is None or x[0] != whole)
        reward = next((reward for base, reward in own if whole in (base, None)), None)
        kind = self._kind(reward is not None, rest)
        return Term(kind, coefficient, rest, reward if kind is Kind.SIGNAL else None)

    def _factor(self, one: tuple[n.Expr, float]) -> Factor:
        """The same for all terms that have it."""
        found = self._factors.get(one)
        if found is None:
            found = Factor(*one, depends(one[0], self._depends), self._origin(one[0]))
            self._factors[one] = found
        return found

    @cached_property
    def _factors(self) -> dict[tuple[n.Expr, float], Factor]:
        return {}

    def _origin(self, base: n.Expr) -> n.Expr:
        """The node of the file for a factor: of the outermost ones that are alike, for a divisor
        of the weight itself is what a reader looks for. Of one that differentiation made, the
        outermost part that stands in the file, or all of it."""
        node = self._outermost.get(base) or self.expand.origin.get(base, base)
        if node.span is not None:
            return node
        parts = (one for one in n.topological(node)[::-1] if one.span is not None)
        return next(parts, self.objective.goal)

    def _outer(self, origin: n.Expr) -> n.Expr:
        """The outermost mean with the divisor of one: what a baseline has of it is its own affair,
        and not what weighs the reward."""
        match origin:
            case n.Reduce("mean", over, _, where):
                return self._means.get((over, where), origin)
        return origin

    @cached_property
    def _means(self) -> dict[tuple[Indices, n.Expr | None], n.Expr]:
        means = [node for node in _from_above(self.objective.goal) if isinstance(node, n.Reduce)]
        found: dict[tuple[Indices, n.Expr | None], n.Expr] = {}
        for node in means:
            if node.op == "mean" and node.span is not None:
                found.setdefault((node.over, node.where), node)
        return found

    @cached_property
    def _outermost(self) -> dict[n.Expr, n.Expr]:
        found: dict[n.Expr, n.Expr] = {}
        for node in _from_above(self.weight):
            if node.span is not None:
                found.setdefault(node, node)
        return found

    @cached_property
    def _depends(self) -> dict[n.Expr, Dependence]:
        return {}

    def _kind(self, own: bool, factors: tuple[Factor, ...]) -> Kind:
        # Below the line, and in a mask, values weigh the others' terms; they are none themselves.
        above = [factor for factor in factors if _stands_above(factor)]
        read = Dependence()
        for factor in above:
            read |= factor.depends
        if read.reads & self.distances:
            return Kind.PENALTY
        if own:
            return Kind.SIGNAL
        if read.expected:
            return Kind.BASELINE
        # What a mask or a divisor of rewards leaves is a function of rewards, too.
        own_parts = [factor.depends for factor in factors if factor.depends.own]
        return Kind.BASELINE if all(one.expected for one in own_parts) else Kind.SHAPING


def _sizes(group: int) -> dict[n.Expr, float]:
    return {GROUP: float(group), PROMPTS: 2.0, RESPONSES: 2.0 * group}


def _stands_above(factor: Factor) -> bool:
    """Whether a factor is a value, not a divisor or a mask; a ratio is one either way up."""
    return _is_above(factor.base, factor.exponent)


def _is_above(base: n.Expr, exponent: float) -> bool:
    ratio = isinstance(base, n.Unary) and base.op == "exp"
    return (exponent > 0 or ratio) and not base.boolean


def _shared(terms: list[Term]) -> dict[n.Expr, float]:
    """The power of each factor that all terms have."""
    powers = [{factor.base: factor.exponent for factor in term.factors} for term in terms]
    shared = {}
    for base in frozenset.intersection(*(frozenset(one) for one in powers)) if powers else ():
        exponents = [one[base] for one in powers]
        if min(exponents) > 0 or max(exponents) < 0:
            shared[base] = min(exponents, key=abs)
    return shared


def frozen(objective: Objective) -> list[str]:
    """The policies of an objective that neither learn nor sample."""
    own = {"pi", "old", "mu", objective.sampling.policy}
    own |= {policy.name for policy in objective.policies if policy.of}
    read = {node.policy for node in objective.nodes if isinstance(node, n.LogProb | n.LogDist)}
    return sorted(read - own)


def on_policy(objective: Objective) -> Expand:
    """An expansion in which all versions of the trained policy are one."""
    same = {name: "pi" for name in ("old", "mu", objective.sampling.policy) if name != "pi"}
    # An inner policy of the old weights is the inner policy of the new ones.
    layers = {(policy.of, policy.layer): policy.name for policy in objective.policies}
    for policy in objective.policies:
        if policy.of in same and ("pi", policy.layer) in layers:
            same[policy.name] = layers["pi", policy.layer]
    return _expansion(objective, same)


def near_policy(objective: Objective, at: Expand) -> Expand:
    """An expansion that keeps the policies apart, right in a neighbourhood of on policy, `at`."""
    expand = _expansion(objective, {})
    expand.at = at
    return expand


def far_policy(objective: Objective) -> Expand:
    """An expansion that keeps the policies apart, wherever they are: clips stay clips."""
    return _expansion(objective, {})


def _expansion(objective: Objective, same: dict[str, str]) -> Expand:
    nodes = [node for node in objective.nodes if isinstance(node, n.LogProb | n.LogDist)]
    trained = frozenset(node.policy for node in nodes if node.trained)
    params = {param.name: param.default for param in objective.params}
    return Expand(params, same, dict.fromkeys(frozen(objective), "pi"), trained=trained)


def _from_above(x: n.Expr) -> Iterator[n.Expr]:
    """The nodes of a formula, level by level."""
    level, seen = [x], set[n.Expr]()
    while level:
        yield from level
        seen.update(level)
        below = dict.fromkeys(child for node in level for child in node.children)
        level = [child for child in below if child not in seen]


def _stands_for(term: Term, name: str) -> bool:
    """Whether a term is a signal of a reward, or a baseline that reads it, or none at all. What
    divides a baseline, or masks it, weighs it, and stands for no reward."""
    if term.reward is not None:
        return term.reward.name == name
    values = {x for factor in term.factors if _stands_above(factor) for x in factor.depends.rewards}
    read = values or {x for factor in term.factors for x in factor.depends.rewards}
    return not read or name in read


def _own(base: n.Expr) -> n.Column | None:
    """The reward of the own response that a factor is, or a part of it that reaches a token."""
    match base:
        case n.Column(_, over) as reward if is_reward(reward) and over in (RESPONSE, TOKEN):
            return reward
        case n.Scan(relation, n.Column() as reward) if is_reward(reward) and relation != "<":
            return reward
    return None


def _is_past(base: n.Expr) -> bool:
    """Whether it is a sum of the rewards before a token."""
    return isinstance(base, n.Scan) and base.relation == "<" and is_reward(base.x)


def _whole(reward: n.Column) -> n.Expr:
    """A reward as it reaches a token: that of a token reaches those up to it."""
    return n.Scan(">=", reward) if reward.over == TOKEN else reward


def _to_go(x: Sum) -> Sum:
    """Sums of a token's rewards, by what is to go: what came before is known, and a baseline."""
    result = Sum()
    for factors, c in x.terms.items():
        sums = [one for one in ordered(factors) if one[1] == 1 and _reward_summed(one[0])]
        term = Sum({factors.difference(sums): c})
        for base, _ in sums:
            term = term * _as_to_go(base)
        result = result + term
    return result


def _reward_summed(base: n.Expr) -> n.Column | None:
    match base:
        case n.Reduce("sum", ("t",), n.Column() as reward, None) | n.Scan(
            ">" | "<=", n.Column() as reward, None
        ) if is_reward(reward):
            return reward
    return None


def _as_to_go(base: n.Expr) -> Sum:
    reward = _reward_summed(base)
    assert reward is not None
    match base:
        case n.Scan(">"):
            return atom(n.Scan(">=", reward)) - atom(reward)
        case n.Scan("<="):
            return atom(n.Scan("<", reward)) + atom(reward)
    return atom(n.Scan(">=", reward)) + atom(n.Scan("<", reward))


def _split(x: Sum, expand: Expand) -> Sum:
    """Sums over responses and prompts, taken apart: the own part, and what the others bring."""
    result = Sum()
    for factors, c in x.terms.items():
        pools = [one for one in ordered(factors) if one[1] == 1 and _pools(one[0])]
        term = Sum({factors.difference(pools): c})
        for base, _ in pools:
            term = term * _parts(base, expand)
        result = result + term
    return result


def _affine(x: Sum, expand: Expand) -> Sum:
    """The functions of a column that has two values, as the affine functions of it that they are:
    the square of a reward of 0 or 1 is the reward, the size of one of -1 or 1 is 1."""
    result = Sum()
    for factors, c in x.terms.items():
        term, rest = Sum({frozenset(): c}), set(factors)
        for base, e in ordered(factors):
            function = _of_two_values(base, e, expand)
            if function is not None:
                rest.remove((base, e))
                term = term * function
        result = result + term * Sum({frozenset(rest): 1.0})
    return result


def _of_two_values(base: n.Expr, exponent: float, expand: Expand) -> Sum | None:
    """A power of a value that reads one column of two values and nothing else, as an affine
    function of the column; None of the column itself, and of what is no number at its values."""
    nodes = n.topological(base)
    columns = [node for node in nodes if not node.children and not isinstance(node, n.Const)]
    if len(columns) != 1 or any(map(_runs, nodes)):
        return None
    (column,) = columns
    if not isinstance(column, n.Column) or not _two_values(column):
        return None
    if base == column and exponent == 1:
        return None
    low, high = sorted(set(column.values))
    at = [expand(n.replaced(base, {column: const(value)})).number for value in (low, high)]
    try:
        first, last = (float(value**exponent) for value in at if value is not None)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        return None  # a root or an inverse that does not exist there, or no number
    rise = (last - first) / (high - low)
    return atom(column).scaled(rise) + number(first - rise * low)


def _runs(node: n.Expr) -> bool:
    """Whether a node takes values from other elements than its own."""
    return isinstance(node, n.Reduce | n.Others | Elsewhere | n.Scan | n.Shift)


def _two_values(base: n.Expr) -> bool:
    return isinstance(base, n.Column) and len(set(base.values)) == 2


def _pools(base: n.Expr) -> bool:
    """Whether it is a sum over the responses of a group or the prompts of a step."""
    match base:
        case n.Reduce("sum", ("i",) | ("p",), _, None):
            return not depends(base).constant
    return False


def _parts(base: n.Expr, expand: Expand) -> Sum:
    assert isinstance(base, n.Reduce)
    rest: n.Expr = n.Others("sum", base.x) if base.over == ("i",) else Elsewhere(base.x)
    expand.origin.setdefault(rest, expand.origin.get(base, base))
    return _split(expand(base.x), expand) + atom(rest)


def _counted_prompts(base: n.Expr) -> n.Expr | None:
    """The mask of the prompts that a value counts, once it counts one."""
    match base:
        case n.Reduce("sum", ("p",), n.Where(mask, then, otherwise), None):
            return mask if (then, otherwise) == (ONE, ZERO) else None
        case n.Reduce("sum", ("p",), mask, None) if mask.boolean:
            return mask
        case n.Binary("max", x, n.Const(least)) | n.Binary("max", n.Const(least), x) if least <= 1:
            return _counted_prompts(x)
    return None
