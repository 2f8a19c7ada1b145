"""What an objective's gradient estimates, on policy: its weight `w`, factor by factor.

With `old = mu = pi` the weight of a token is a sum of products. Each product belongs to one of

    signal      the response's own reward, times a coefficient
    baseline    rewards of others, or no reward at all
    penalty     a frozen policy

    shaping     something else of the response: its length, a bonus

and the gradient follows that of the expected reward if the coefficient of the own reward is the
same for every response and token, and nothing else changes with the response (docs/criterion.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from functools import cached_property

from objdsl.analysis.dependence import Dependence, Elsewhere, Level, depends, is_reward
from objdsl.analysis.expand import (
    GROUP,
    PROMPTS,
    RESPONSES,
    Expand,
    Factors,
    Sum,
    TooLarge,
    atom,
    interval,
    number,
    ordered,
)
from objdsl.analysis.masks import joined
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, count, div, real
from objdsl.ir.indices import PROMPT, Indices
from objdsl.ir.nodes import (
    Binary,
    Column,
    Const,
    Expr,
    Length,
    LogDist,
    LogProb,
    Others,
    Position,
    Reduce,
    Scan,
    Shift,
    Unary,
    replaced,
    topological,
)
from objdsl.ir.objective import Objective

# Groups, small and large, where a file does not say how large they are.
_GROUPS = (2, 64)
# Rewards of a group that lie no further apart are alike.
_NEARLY_ALIKE = 0.01

_AT_THE_END = Binary("eq", Position(), Length())
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

    base: Expr
    exponent: float
    depends: Dependence
    origin: Expr


@dataclass(frozen=True)
class Term:
    """One product of the weight; the own reward of a signal is not among its factors."""

    kind: Kind
    coefficient: float
    factors: tuple[Factor, ...]


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
    leaf: LogProb | LogDist
    weight: Expr
    expand: Expand

    @cached_property
    def expanded(self) -> Sum | None:
        try:
            return self.expand(self.weight)
        except TooLarge:
            return None

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The products, each pool's own part apart from that of the others."""
        if self.expanded is None:
            return ()
        try:
            split = _affine(_split(joined(self.expanded, self.expand), self.expand))
        except TooLarge:
            return ()
        return tuple(self._term(factors, c) for factors, c in split.terms.items())

    def of(self, *kinds: Kind) -> list[Term]:
        return [term for term in self.terms if term.kind in kinds]

    @cached_property
    def bends(self) -> tuple[Bend, ...]:
        """Every factor that changes with the response and weighs a reward, own or others'."""
        rewarded = self.of(Kind.SIGNAL, Kind.BASELINE)
        shared, weights = _shared(rewarded), self._weights
        found: dict[tuple[Expr, bool], Bend] = {}
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
    def _weights(self) -> set[Factors]:
        """What weighs the own reward in some of its terms, and is no statistic of the group: with
        `A * (1 + |y|)` it is `|y|`, wherever it stands, for no baseline brings that."""
        products = {self._bending(term) for term in self.of(Kind.SIGNAL)}
        pooled = {f.base for term in self.terms for f in term.factors if f.depends.pooled}
        return {one for one in products if one and not any(base in pooled for base, _ in one)}

    def _bending(self, term: Term) -> Factors:
        return frozenset((f.base, f.exponent) for f in term.factors if self._bends(f, term))

    @cached_property
    def prompt_weights(self) -> tuple[Factor, ...]:
        """Factors by which whole prompts weigh differently."""
        found: dict[Expr, Factor] = {}
        for term in self.of(Kind.SIGNAL, Kind.BASELINE):
            for factor in term.factors:
                harmless = factor.depends.constant or factor.base in self.bootstraps
                # In a baseline, what takes away more of the own reward here and less of it there.
                weighs = term.kind is Kind.SIGNAL or (factor.depends.pooled and self.binary(factor))
                if weighs and not harmless and not self._bends(factor, term):
                    found[factor.base] = factor
        return tuple(found.values())

    @cached_property
    def direction(self) -> Direction:
        if self.expanded is None or (self.expanded.terms and not self.terms):
            return Direction.UNKNOWN
        if not (self.of(Kind.SIGNAL) or self.bends or self.prompt_weights):
            return Direction.NONE
        if self.falls:
            return Direction.REVERSED
        if self.bends or self.chosen:
            return Direction.BIASED
        if self.of(Kind.SHAPING, Kind.PENALTY):
            return Direction.SHAPED
        return Direction.REWEIGHTED if self.prompt_weights else Direction.EXACT

    @cached_property
    def falls(self) -> bool:
        """Whether the own reward stands in the weight with a minus, whatever the data: what is
        trained lowers rewards, or what a bent gradient takes for them."""
        # A square of the own reward, or a mask by it, rises or falls with the reward, too.
        own = [f.depends for term in self.of(Kind.BASELINE) for f in term.factors]
        if any(one.rewards and one.own and not one.pooled for one in own):
            return False
        group = self.objective.sampling.group
        return all(self._falls(sizes) for sizes in map(_sizes, (group,) if group else _GROUPS))

    @property
    def negative(self) -> Iterator[Factor]:
        """What the reward is multiplied by that is never above 0, as a logarithm of `pi` is."""
        for term in self.of(Kind.SIGNAL):
            for factor in term.factors:
                power = frozenset({(factor.base, factor.exponent)})
                if interval(Sum({power: 1.0}))[1] <= 0:
                    yield factor

    def _falls(self, sizes: dict[Expr, float]) -> bool:
        totals: defaultdict[Factors, float] = defaultdict(float)
        for term in self.of(Kind.SIGNAL):
            size, varying = self.sized(term, sizes)
            totals[frozenset((f.base, f.exponent) for f in varying)] += size * term.coefficient
        left = [Sum({factors: total}) for factors, total in totals.items() if total]
        return bool(left) and all(interval(one)[1] <= 0 for one in left)

    def sized(
        self, term: Term, sizes: dict[Expr, float] | None = None
    ) -> tuple[float, tuple[Factor, ...]]:
        """What the sizes of the step make of a product, as a number, and its other factors: of `R -
        R / G` there is less than of `R`, and not one thing added and another taken away."""
        sizes = sizes or _sizes(self.objective.sampling.group or _GROUPS[0])
        number = math.prod(sizes[f.base] ** f.exponent for f in term.factors if f.base in sizes)
        return number, tuple(f for f in term.factors if f.base not in sizes)

    def binary(self, factor: Factor) -> bool:
        """Whether it depends on nothing but rewards of a group that have two values, as 0 and 1.

        The expectation of such a factor is then an affine function of the own reward: it weighs
        prompts, and bends nothing.
        """
        return (
            bool(factor.depends.rewards)
            and factor.depends.reads == factor.depends.rewards
            and not factor.depends.batch
            and self.rewards_are_binary
        )

    @cached_property
    def rewards_are_binary(self) -> bool:
        rewards = self.objective.rewards
        return bool(rewards) and all(map(_two_values, rewards))

    def _bends(self, factor: Factor, term: Term) -> bool:
        if factor.base in self.kept or factor.base in self.bootstraps:
            return False
        if self.binary(factor):
            # An affine function of the own reward: it weighs a baseline that knows the state.
            knows = any(Level.PREFIX in other.depends.levels for other in term.factors)
            return factor.depends.own and knows
        levels = factor.depends.levels
        # State by state a signal may not be weighted; a baseline may.
        return factor.depends.own or (term.kind is Kind.SIGNAL and Level.PREFIX in levels)

    @cached_property
    def bootstraps(self) -> frozenset[Expr]:
        """The factors of a lambda-return: no bias, if the critic is exact.

        With `d` for lambda it is `d^(n - t) R + (1/d - 1) sum[s >= t] d^(s - t) V_s - V_t / d`:
        what the reward loses by `d` the later values bring. For 0 it is the reward, with the last
        token, and before that the next value.
        """
        discounts = {
            factor.base: term.coefficient
            for term in self.of(Kind.SIGNAL)
            for factor in term.factors
            if isinstance(factor.base, Scan) and factor.base.decay is not None
        }
        at_the_end = {
            term.coefficient
            for term in self.of(Kind.SIGNAL)
            if any(factor.base == _AT_THE_END for factor in term.factors)
        }
        found: set[Expr] = set()
        for term in self.of(Kind.BASELINE):
            for factor in term.factors:
                match factor.base:
                    case Scan(">=", Column("V_old" | "V"), Const(d) as decay):
                        returns = replace(factor.base, x=_LAST)
                        lost = discounts.get(returns, math.nan) * (1 / d - 1)
                        if math.isclose(term.coefficient, lost) and decay.value < 1:
                            found |= {factor.base, returns}
                    case Shift(Column("V_old" | "V"), 1) if term.coefficient in at_the_end:
                        found |= {factor.base, _AT_THE_END}
        return frozenset(found)

    @cached_property
    def kept(self) -> frozenset[Expr]:
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
        if not self.rewards_are_binary or read.reads != read.rewards:
            return True
        # An affine function of the own reward; see `_bends`.
        levels = (f.depends.levels for term in self.of(Kind.BASELINE) for f in term.factors)
        return any(Level.PREFIX in one for one in levels)

    @cached_property
    def centred(self) -> bool:
        """Whether rewards that are alike in a group have no weight in it."""
        keep, rewards = self.objective.keep, filter(is_reward, topological(self.weight))
        instead: dict[Expr, Expr] = {
            x: replace(x, over=PROMPT) for x in rewards if isinstance(x, Column)
        }
        if keep is not None:
            instead[keep] = keep
        try:
            alike = self.expand(replaced(self.weight, instead))
        except TooLarge:
            return False
        return not any(self._stands_for_rewards(factors) for factors in alike.terms)

    def _stands_for_rewards(self, factors: Factors) -> bool:
        """Whether a term is a reward or a baseline; a penalty brings terms without either, too."""
        read = [depends(base, self._depends) for base, _ in factors if base not in self.kept]
        penalised = frozen(self.objective)
        return any(x.expected for x in read) or not (penalised or any(x.reads for x in read))

    def _tells_apart(self, keep: Expr) -> bool:
        """Whether a mask is `min < max` or `std > 0` of a group's rewards, or says the same."""
        match keep:
            case Binary("lt" | "ne", a, b) | Binary("gt", b, a) | Unary("not", Binary("eq", a, b)):
                gap = dict((self.expand(b) - self.expand(a)).terms)
            case _:
                return False
        least = -gap.pop(frozenset(), 0.0)
        parts = {base: c for factors, c in gap.items() for base, e in factors if e == 1}
        if len(parts) != len(gap) or not 0 <= least <= _NEARLY_ALIKE:
            return False
        ordered = keep.op in ("lt", "gt") if isinstance(keep, Binary) else False
        found = {}
        for base, c in parts.items():
            if not (isinstance(base, Reduce) and base.over == ("i",) and is_reward(base.x)):
                return False
            found[base.op] = c
        if len(found) == 1:
            (op, c) = found.popitem()
            return op in ("std", "pstd") and (c > 0 or not ordered)
        widest = found.get("max", 0.0)
        return found == {"max": widest, "min": -widest} and (widest > 0 or not ordered)

    @cached_property
    def distances(self) -> frozenset[str]:
        """How the distances `log(ref / pi)` are named in what a factor reads."""
        return frozenset(f"{policy} / {to}" for policy, to in self.expand.apart.items())

    def _term(self, factors: Factors, coefficient: float) -> Term:
        own = [base for base, e in factors if is_reward(base) and e == 1]
        rest = tuple(self._factor(one) for one in ordered(factors) if not own or one[0] != own[0])
        return Term(self._kind(bool(own), rest), coefficient, rest)

    def _factor(self, one: tuple[Expr, float]) -> Factor:
        """The same for all terms that have it."""
        found = self._factors.get(one)
        if found is None:
            found = Factor(*one, depends(one[0], self._depends), self._origin(one[0]))
            self._factors[one] = found
        return found

    @cached_property
    def _factors(self) -> dict[tuple[Expr, float], Factor]:
        return {}

    def _origin(self, base: Expr) -> Expr:
        """The node of the file for a factor: of the outermost ones that are alike, for a divisor
        of the weight itself is what a reader looks for. Of one that differentiation made, the
        outermost part that stands in the file, or all of it."""
        node = self._outermost.get(base) or self.expand.origin.get(base, base)
        if node.span is not None:
            return node
        parts = (one for one in topological(node)[::-1] if one.span is not None)
        return next(parts, self.objective.goal)

    def _outer(self, origin: Expr) -> Expr:
        """The outermost mean with the divisor of one: what a baseline has of it is its own affair,
        and not what weighs the reward."""
        match origin:
            case Reduce("mean", over, _, where):
                return self._means.get((over, where), origin)
        return origin

    @cached_property
    def _means(self) -> dict[tuple[Indices, Expr | None], Expr]:
        means = [node for node in _from_above(self.objective.goal) if isinstance(node, Reduce)]
        found: dict[tuple[Indices, Expr | None], Expr] = {}
        for node in means:
            if node.op == "mean" and node.span is not None:
                found.setdefault((node.over, node.where), node)
        return found

    @cached_property
    def _outermost(self) -> dict[Expr, Expr]:
        found: dict[Expr, Expr] = {}
        for node in _from_above(self.weight):
            if node.span is not None:
                found.setdefault(node, node)
        return found

    @cached_property
    def _depends(self) -> dict[Expr, Dependence]:
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
        return Kind.SHAPING if any(factor.depends.own for factor in factors) else Kind.BASELINE


def _sizes(group: int) -> dict[Expr, float]:
    return {GROUP: float(group), PROMPTS: 2.0, RESPONSES: 2.0 * group}


def _stands_above(factor: Factor) -> bool:
    """Whether a factor is a value, not a divisor or a mask; a ratio is one either way up."""
    ratio = isinstance(factor.base, Unary) and factor.base.op == "exp"
    return (factor.exponent > 0 or ratio) and not factor.base.boolean


def _shared(terms: list[Term]) -> dict[Expr, float]:
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
    read = {node.policy for node in objective.nodes if isinstance(node, LogProb | LogDist)}
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


def _expansion(objective: Objective, same: dict[str, str]) -> Expand:
    nodes = [node for node in objective.nodes if isinstance(node, LogProb | LogDist)]
    trained = frozenset(node.policy for node in nodes if node.trained)
    params = {param.name: param.default for param in objective.params}
    return Expand(params, same, dict.fromkeys(frozen(objective), "pi"), trained=trained)


def _from_above(x: Expr) -> Iterator[Expr]:
    """The nodes of a formula, level by level."""
    level, seen = [x], set[Expr]()
    while level:
        yield from level
        seen.update(level)
        below = dict.fromkeys(child for node in level for child in node.children)
        level = [child for child in below if child not in seen]


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


def _affine(x: Sum) -> Sum:
    """The powers of a column that has two values, as the affine functions of it that they are: the
    square of a reward of 0 or 1 is the reward."""
    result = Sum()
    for factors, c in x.terms.items():
        squares = [one for one in ordered(factors) if one[1] in (2, 3, 4) and _two_values(one[0])]
        term = Sum({factors.difference(squares): c})
        for base, e in squares:
            low, high = sorted(set(base.values))  # type: ignore[attr-defined]
            rise = (high**e - low**e) / (high - low)
            term = term * (atom(base).scaled(rise) + number(low**e - rise * low))
        result = result + term
    return result


def _two_values(base: Expr) -> bool:
    return isinstance(base, Column) and len(set(base.values)) == 2


def _pools(base: Expr) -> bool:
    """Whether it is a sum over the responses of a group or the prompts of a step."""
    match base:
        case Reduce("sum", ("i",) | ("p",), _, None):
            return not depends(base).constant
    return False


def _parts(base: Expr, expand: Expand) -> Sum:
    assert isinstance(base, Reduce)
    rest: Expr = Others("sum", base.x) if base.over == ("i",) else Elsewhere(base.x)
    expand.origin.setdefault(rest, expand.origin.get(base, base))
    return _split(expand(base.x), expand) + atom(rest)
