"""How large and how small the values of a formula become in float32, for data that happen.

A value has a range, found from the inside of the formula outwards: what leaves the numbers of
float32 is infinite, or 0, from there on. What happens is this. Let s be the policy that sampled.

- `E_s[q / s] = 1` for every policy q and any part of a response, so that `q / s > e^20` has a
  probability below 2e-9 (Markov). No ratio to the sampler overflows.
- The other way there is no bound. A token that was sampled may have the probability `e^-24` under
  another policy, and `e^-15` of what it was under one that is a few updates away. Over a response
  this adds up: a KL of 0.05 for each of 4000 tokens is 200.
- Rewards and other columns of no known domain are among -1 and 1; responses have up to 10 000
  tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import Enum
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors, TooLargeError, proportion
from objdsl.frozen import dataclass
from objdsl.ir.bounds import bounds
from objdsl.ir.build import is_size, sub
from objdsl.ir.objective import Objective
from objdsl.ir.ops import UNARY, float32

_LARGEST = 3.4e38
_SMALLEST = 1e-38
_TOKENS, _OTHERS = 10_000, 1_000
# A formula with more conditions than this is read without what they say.
_MOST_MASKS = 200


class Fault(Enum):
    """How a value leaves the numbers of float32."""

    OVERFLOW = "too large"
    UNDERFLOW = "0, where it is positive"


Cause = tuple[n.Expr, Fault]


@dataclass(frozen=True)
class Range:
    """The numbers that a value may be.

    Attributes:
        vanishes: it may be 0 by rounding.
        causes: where the numbers were left, if it may be infinite or vanish.
    """

    low: float
    high: float
    vanishes: bool = False
    causes: frozenset[Cause] = frozenset()

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __or__(self, other: Range) -> Range:
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Range(low, high, self.vanishes or other.vanishes, self.causes | other.causes)


class _Reach(Enum):
    """Of what a probability is: a word, the token, a mean, the response."""

    WORD = (-100.0, -100.0)
    TOKEN = (-24.0, -15.0)
    MEAN = (-5.0, -5.0)
    RESPONSE = (-10_000.0, -50.0)

    @property
    def far(self) -> float:
        """The least `log(q / s)` of a policy, and of a probability itself."""
        return self.value[0]

    @property
    def near(self) -> float:
        """That of a policy which has learned from these responses alone."""
        return self.value[1]

    @property
    def most(self) -> float:
        return 5.0 if self is _Reach.MEAN else 20.0


@dataclasses.dataclass
class Extremes:
    """The ranges of the values of an objective."""

    objective: Objective
    _known: dict[n.Expr, Range] = field(default_factory=dict)
    _logarithms: dict[n.Expr, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._params = {param.name: param.default for param in self.objective.params}
        self._expand = Expand(self._params)
        self._asked = 0
        self._sampler = self.objective.sampling.policy
        self._online = bool(self.objective.rewards)

    @property
    def gave_up(self) -> bool:
        """Whether there were more conditions than are read, in what was asked for so far: without
        what they say, a range may be wider than it is."""
        return self._asked == _MOST_MASKS

    def __call__(self, expr: n.Expr) -> Range:
        return self._of(expr, self._known, {})

    def is_response(self, node: n.Expr) -> bool:
        """Whether a value is the probability of a response, and no ratio of two: after some 100
        tokens it is 0."""
        powers = self._powers(node.x) if isinstance(node, n.Unary) and node.op == "exp" else None
        if powers is None:
            return False
        return abs(sum(powers[1].get(_Reach.RESPONSE, {}).values())) > 1e-9

    def _of(self, expr: n.Expr, known: dict[n.Expr, Range], held: Mapping[n.Expr, Range]) -> Range:
        """The range of a value; of those in `held` it is known from a mask."""
        for node in n.topological(expr):
            if node not in known:
                known[node] = _finite(held.get(node) or self._node(node, known, held))
        return known[expr]

    def _node(
        self, node: n.Expr, known: dict[n.Expr, Range], held: Mapping[n.Expr, Range]
    ) -> Range:
        if node.boolean:
            return Range(0.0, 1.0)
        if not held or not any(x in held for x in (node, *node.children)):
            ratio = self._log_ratio(node)
            if ratio is not None:
                return ratio
        match node:
            case n.Const(value):
                return Range(value, value)
            case n.Param(name):
                return Range(self._params[name], self._params[name])
            case n.Column(_, _, _, _, values):
                return Range(min(values, default=-1.0), max(values, default=1.0))
            case n.Length() | n.Position():
                return Range(1.0, _TOKENS)
            case n.Unary(op, x):
                return _unary(op, known[x], node)
            case n.Binary("sub", a, n.Reduce("max", _, b, None)) if a == b:
                return Range(known[a].low - known[b].high, 0.0, causes=known[a].causes)
            case n.Binary("div", a, b) if (most := self._standardised(a, b)) is not None:
                return Range(-most, most, causes=known[a].causes | known[b].causes)
            case n.Binary(op, a, b):
                return _binary(op, known[a], known[b], node)
            case n.Clip(x, lo, hi):
                return _binary("min", _binary("max", known[x], known[lo], node), known[hi], node)
            case n.Where(mask, a, b):
                return self._side(mask, True, a, known, held) | self._side(
                    mask, False, b, known, held
                )
            case n.Reduce(op, over, x):
                return _reduced(op, _OTHERS if "t" not in over else _TOKENS, known[x], node)
            case n.Others(op, x):
                return _reduced(op, _OTHERS, known[x], node)
            case n.Scan(_, x):
                return _reduced("sum", _TOKENS, known[x], node)
            case n.Stop(x) | n.Shift(x):
                return known[x]
            case n.LogProb() | n.LogDist():
                return Range(_Reach.WORD.far, 0.0)
            case n.Top() | n.Pick():
                return Range(0.0, 1.0)
            case n.Symbol():
                raise TypeError(f"no range of {type(node).__name__}")
        assert_never(node)

    def _standardised(self, a: n.Expr, b: n.Expr) -> float | None:
        """The most that a distance from the mean is, in deviations, if a quotient is one: the root
        of how many there are, less one."""
        spreads = [part for part in _at_least(b) if isinstance(part, n.Reduce)]
        for spread in spreads:
            centred = sub(spread.x, n.Reduce("mean", spread.over, spread.x))
            try:
                times = proportion(self._expand(a), self._expand(centred))
            except TooLargeError:
                continue
            if times is not None:
                group = self.objective.sampling.group if spread.over == ("i",) else None
                return abs(times) * math.sqrt(max((group or _OTHERS) - 1, 1))
        return None

    def _side(
        self,
        mask: n.Expr,
        holds: bool,
        x: n.Expr,
        known: dict[n.Expr, Range],
        held: Mapping[n.Expr, Range],
    ) -> Range:
        """The range of a value where a mask holds, or where it does not."""
        if self._asked == _MOST_MASKS:
            return known[x]
        self._asked += 1
        within = set(n.topological(x))
        bounds: dict[n.Expr, Range] = {}
        for one, low, high in _said(mask, holds, known):
            matters = self._is_logarithm(one) or not known[one].finite
            if one in within and matters:
                before = bounds.get(one, known[one])
                bounds[one] = Range(max(before.low, low), min(before.high, high), before.vanishes)
        if not bounds:
            return known[x]
        return self._of(x, {}, {**held, **bounds})

    # --- logarithms of probabilities -------------------------------------------------------------

    def _log_ratio(self, node: n.Expr) -> Range | None:
        """The range of a sum of log-probabilities."""
        read = self._powers(node)
        if read is None:
            return None
        low = high = read[0]
        for reach, powers in read[1].items():
            ends = [self._distance(policy, reach) for policy in powers]
            total = sum(powers.values())
            if len(powers) == 1:
                ends, total = [(reach.far, 0.0)], 0.0  # of a probability, which is at most 1
            elif abs(total) > 1e-9:
                # What does not cancel is the probability under the sampler itself.
                low, high = low + min(total * reach.far, 0.0), high + max(total * reach.far, 0.0)
            for power, (least, most) in zip(powers.values(), ends, strict=True):
                low += min(power * least, power * most)
                high += max(power * least, power * most)
        return Range(low, high)

    def _powers(self, node: n.Expr) -> tuple[float, Mapping[_Reach, Mapping[str, float]]] | None:
        """A sum of log-probabilities: a number, and the coefficient of each."""
        if not self._is_logarithm(node):
            return None
        try:
            terms = self._expand(node).terms
        except TooLargeError:
            return None
        powers: defaultdict[_Reach, defaultdict[str, float]]
        powers = defaultdict(lambda: defaultdict(float))
        for factors, c in terms.items():
            read = _log_probability(factors)
            if read is not None:
                powers[read[0]][read[1]] += c
            elif factors:
                return None
        return terms.get(frozenset(), 0.0), powers

    def _is_logarithm(self, node: n.Expr) -> bool:
        """Whether a value has the form of a sum of log-probabilities."""
        known = self._logarithms.get(node)
        if known is None:
            known = self._logarithms[node] = self._reads_as_one(node)
        return known

    def _reads_as_one(self, node: n.Expr) -> bool:
        match node:
            case n.LogProb() | n.LogDist():
                return True
            case n.Unary("neg", x) | n.Stop(x) | n.Reduce("sum" | "mean", ("t",), x, None):
                return self._is_logarithm(x)
            case n.Scan(_, x, None):
                return self._is_logarithm(x)
            case n.Binary("add" | "sub", a, b):
                one, other = self._is_logarithm(a), self._is_logarithm(b)
                return (one or is_size(a)) and (other or is_size(b)) and (one or other)
            case n.Binary("mul", a, b):
                return (is_size(a) and self._is_logarithm(b)) or (
                    is_size(b) and self._is_logarithm(a)
                )
            case n.Binary("div", a, b):
                return is_size(b) and self._is_logarithm(a)
        return False

    def _distance(self, policy: str, reach: _Reach) -> tuple[float, float]:
        """The range of `log(policy / sampler)`."""
        if policy == self._sampler:
            return 0.0, 0.0
        engines = policy in ("old", "mu")
        learned = policy == "pi" and self._online
        return (reach.near if engines or learned else reach.far), reach.most


def _log_probability(factors: Factors) -> tuple[_Reach, str] | None:
    """The reach and the policy of a product that is a log-probability, summed or not."""
    match sorted(factors, key=lambda one: one[1]):
        case [(n.LogProb(policy), 1.0)]:
            return _Reach.TOKEN, policy
        case [(n.LogDist(policy), 1.0)]:
            return _Reach.WORD, policy
        case [(n.Reduce("sum", ("t",), n.LogProb(policy), None), 1.0)] | [
            (n.Scan(_, n.LogProb(policy), None), 1.0)
        ]:
            return _Reach.RESPONSE, policy
        case [(n.Length(), -1.0), (n.Reduce("sum", ("t",), n.LogProb(policy), None), 1.0)]:
            return _Reach.MEAN, policy
    return None


def _at_least(x: n.Expr) -> list[n.Expr]:
    """The deviations that a divisor is never below, a small number added or taken for the least."""
    match x:
        case n.Reduce("std" | "pstd", _, _, None):
            return [x]
        case n.Binary("max", a, b):
            return _at_least(a) + _at_least(b)
        case n.Binary("add", a, b):
            return (_at_least(a) if bounds(b)[0] >= 0 else []) + (
                _at_least(b) if bounds(a)[0] >= 0 else []
            )
        case n.Stop(a):
            return _at_least(a)
    return []


# --- arithmetic ----------------------------------------------------------------------------------


def _finite(x: Range) -> Range:
    """A range without causes, if it needs none. What is merely large, a product of many factors
    at their worst, is not taken for infinite."""
    if not x.causes and not x.vanishes and -_LARGEST <= x.low <= x.high <= _LARGEST:
        return x
    low, high = (end if math.isinf(end) else _clamped(end) for end in (x.low, x.high))
    made = Range(low, high, x.vanishes, x.causes)
    if not made.finite:
        return made
    small = frozenset(one for one in x.causes if one[1] is Fault.UNDERFLOW)
    return Range(low, high, x.vanishes, small if x.vanishes else frozenset())


def _clamped(x: float) -> float:
    return max(-_LARGEST, min(x, _LARGEST))


def _unary(op: n.UnaryOp, x: Range, node: n.Expr) -> Range:
    row = UNARY[op]
    least, most = row.domain
    ends = _near(x.low, least, x.vanishes), min(x.high, most)
    low, high = map(float32, row.over((ends[0], max(ends))))
    causes = x.causes
    vanishes = x.vanishes and row.value(0.0) == 0
    if not row.attained and 0 in (low, high):
        vanishes = True
        causes |= {(node, Fault.UNDERFLOW)}
    if math.isinf(high) and math.isfinite(x.high):
        causes |= {(node, Fault.OVERFLOW)}
    return Range(min(low, _LARGEST), high, vanishes, causes)


def _near(low: float, least: float, vanishes: bool) -> float:
    """The least operand of a function that is not defined below `least`: what is never 0 comes
    near to it, but for rounding."""
    if low > least or math.isinf(least):
        return low
    return least if vanishes or least else _SMALLEST


def _binary(op: str, a: Range, b: Range, node: n.Expr) -> Range:
    causes = a.causes | b.causes
    match op:
        case "add":
            vanishes = a.vanishes and b.vanishes
            return Range(_sum(a.low, b.low), _sum(a.high, b.high), vanishes, causes)
        case "sub":
            # 1 - pi is 0 where float32 has pi at 1.
            vanishes = a.low == a.high == b.high != 0 and b.low != b.high
            if vanishes:
                causes |= {(node, Fault.UNDERFLOW)}
            return Range(_sum(a.low, -b.high), _sum(a.high, -b.low), vanishes, causes)
        case "mul":
            ends = [_times(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
            return Range(min(ends), max(ends), a.vanishes or b.vanishes, causes)
        case "div":
            if b.vanishes:
                return Range(-math.inf, math.inf, a.vanishes, causes)
            if not b.finite and not a.finite:
                return Range(-math.inf, math.inf, a.vanishes, causes)
            inverse = [1 / y if abs(y) > 1e-8 else math.copysign(1e8, y) for y in (b.low, b.high)]
            if b.low < 0 < b.high:
                inverse = [-1e8, 1e8]
            ends = [_times(x, y) for x in (a.low, a.high) for y in inverse]
            return Range(min(ends), max(ends), a.vanishes, causes)
        case "min":
            return Range(min(a.low, b.low), min(a.high, b.high), a.vanishes or b.vanishes, causes)
        case "max":
            low, high = max(a.low, b.low), max(a.high, b.high)
            return Range(low, high, low <= 0 and (a.vanishes or b.vanishes), causes)
        case "pow":
            return _power(a, b, node, causes)
    raise TypeError(f"no range of {op}")


def _power(a: Range, b: Range, node: n.Expr, causes: frozenset[Cause]) -> Range:
    over = frozenset({(node, Fault.OVERFLOW)})
    if b.high < 0:
        if a.vanishes:
            return Range(0.0, math.inf, causes=causes)
        return Range(0.0, 1e30 if a.low <= 0 else _raised(a.low, b.low))
    most = max(_raised(abs(end), b.high) for end in (a.low, a.high))
    low = -most if a.low < 0 and b.high % 2 else 0.0
    if most > _LARGEST and a.finite:
        return Range(-math.inf if low else 0.0, math.inf, a.vanishes, causes | over)
    return Range(low, most, a.vanishes, causes)


def _raised(x: float, exponent: float) -> float:
    try:
        return float(x**exponent)
    except OverflowError:
        return math.inf


def _reduced(op: str, many: int, x: Range, node: n.Expr) -> Range:
    match op:
        case "sum":
            ends = _times(x.low, many), _times(x.high, many)
            return Range(min(x.low, ends[0]), max(x.high, ends[1]), x.vanishes, x.causes)
        case "std" | "pstd":
            return Range(0.0, _sum(x.high, -x.low), causes=x.causes)
        case "prod":
            high = _raised(max(abs(x.low), abs(x.high)), many)
            high = math.inf if high > _LARGEST else high
            under = frozenset({(node, Fault.UNDERFLOW)}) if abs(x.low) < 1 else frozenset()
            over = frozenset({(node, Fault.OVERFLOW)}) if math.isinf(high) else frozenset()
            return Range(min(x.low, 0.0), high, bool(under), x.causes | under | over)
    return x


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _sum(a: float, b: float) -> float:
    """Of an infinity and its opposite, which is NaN, the first: it is no number either way."""
    return a if math.isinf(a) else a + b


def _said(
    mask: n.Expr, holds: bool, known: Mapping[n.Expr, Range]
) -> Iterator[tuple[n.Expr, float, float]]:
    """What a mask says of values: their least and their largest."""
    match mask:
        case n.Unary("not", m) | n.Stop(m):
            yield from _said(m, holds if isinstance(mask, n.Stop) else not holds, known)
        case n.Binary("and" | "or" as op, a, b) if (op == "and") is holds:
            yield from _said(a, holds, known)
            yield from _said(b, holds, known)
        case n.Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            small, large = (a, b) if (op in ("lt", "le")) is holds else (b, a)
            yield small, -math.inf, known[large].high
            yield large, known[small].low, math.inf
        case n.Binary("eq", a, b) if holds:
            yield a, known[b].low, known[b].high
            yield b, known[a].low, known[a].high
