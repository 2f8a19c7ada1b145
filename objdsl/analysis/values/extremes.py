"""How large and how small the values of a formula become in float32, on realistic data.

Every value has a range, computed from the inside of the formula outwards: a value that leaves the
range of float32 is infinite, or 0, from there on. `logarithms` says which probabilities are
realistic. Rewards and other columns without a domain lie between -1 and 1; responses have up to
10 000 tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError, proportion
from objdsl.analysis.values.logarithms import LEAST_LOG_PROB, Logarithms
from objdsl.analysis.values.ranges import Range, binary, reduced, settled, unary
from objdsl.ir.bounds import bounds
from objdsl.ir.build import sub
from objdsl.ir.objective import Objective

_TOKENS, _OTHERS = 10_000, 1_000
# The most conditions of a formula that bound values; later ones are ignored.
_MOST_MASKS = 200


@dataclasses.dataclass
class Extremes:
    """The ranges of the values of an objective."""

    objective: Objective
    _known: dict[n.Expr, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._params = {param.name: param.default for param in self.objective.params}
        self._expand = Expand(self._params)
        self._logarithms = Logarithms(self.objective, self._expand)
        self._masks = 0

    @property
    def gave_up(self) -> bool:
        """Whether there were more conditions than are read, in all ranges so far. Without the
        bounds that they set, a range may be too wide."""
        return self._masks == _MOST_MASKS

    def __call__(self, expr: n.Expr) -> Range:
        return self._of(expr, self._known, {})

    def is_response(self, node: n.Expr) -> bool:
        """Whether a value is the probability of a response, rather than a ratio of two: after some
        100 tokens it is 0."""
        if not isinstance(node, n.Unary) or node.op != "exp":
            return False
        return self._logarithms.is_of_response(node.x)

    def _of(
        self, expr: n.Expr, known: dict[n.Expr, Range], bounded: Mapping[n.Expr, Range]
    ) -> Range:
        """The range of a value where masks bound the values in `bounded`."""
        for node in n.topological(expr):
            if node not in known:
                known[node] = settled(bounded.get(node) or self._node(node, known, bounded))
        return known[expr]

    def _node(
        self, node: n.Expr, known: dict[n.Expr, Range], bounded: Mapping[n.Expr, Range]
    ) -> Range:
        if node.boolean:
            return Range(0.0, 1.0)
        if not bounded or not any(x in bounded for x in (node, *node.children)):
            ratio = self._logarithms.range_of(node)
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
                return unary(op, known[x], node)
            case n.Binary("sub", a, n.Reduce("max", _, b, None)) if a == b:
                return Range(known[a].low - known[b].high, 0.0, causes=known[a].causes)
            case n.Binary("div", a, b) if (most := self._standardised(a, b)) is not None:
                return Range(-most, most, causes=known[a].causes | known[b].causes)
            case n.Binary(op, a, b):
                return binary(op, known[a], known[b], node)
            case n.Clip(x, lo, hi):
                return binary("min", binary("max", known[x], known[lo], node), known[hi], node)
            case n.Where(mask, a, b):
                return self._side(mask, True, a, known, bounded) | self._side(
                    mask, False, b, known, bounded
                )
            case n.Reduce(op, over, x):
                return reduced(op, _OTHERS if "t" not in over else _TOKENS, known[x], node)
            case n.Peers(op, over, x):
                return reduced(op, _OTHERS if "t" not in over else _TOKENS, known[x], node)
            case n.Scan(_, x):
                return reduced("sum", _TOKENS, known[x], node)
            case n.Stop(x) | n.Shift(x) | n.Present(x):
                return known[x]
            case n.LogProb() | n.LogDist():
                return Range(LEAST_LOG_PROB, 0.0)
            case n.Quantile(_, x, _, mask):
                return known[x] if mask is None else known[x] | Range(0.0, 0.0)
            case n.Order("rank", over):
                return Range(1.0, _OTHERS if "t" not in over else _TOKENS)
            case n.Order() | n.Pick():
                return Range(0.0, 1.0)
            case n.Symbol():
                raise TypeError(f"no range of {type(node).__name__}")
        assert_never(node)

    def _standardised(self, a: n.Expr, b: n.Expr) -> float | None:
        """The largest absolute value of `a / b`, if it is a distance from the mean in standard
        deviations: the root of the number of elements minus 1. None for other quotients."""
        for deviation in _deviations(b):
            centred = sub(deviation.x, n.Reduce("mean", deviation.over, deviation.x))
            try:
                times = proportion(self._expand(a), self._expand(centred))
            except TooLargeError:
                continue
            if times is not None:
                group = self.objective.sampling.group if deviation.over == ("i",) else None
                return abs(times) * math.sqrt(max((group or _OTHERS) - 1, 1))
        return None

    def _side(
        self,
        mask: n.Expr,
        holds: bool,
        x: n.Expr,
        known: dict[n.Expr, Range],
        bounded: Mapping[n.Expr, Range],
    ) -> Range:
        """The range of a value where a mask holds, or where it does not."""
        if self._masks == _MOST_MASKS:
            return known[x]
        self._masks += 1
        within = set(n.topological(x))
        narrower: dict[n.Expr, Range] = {}
        for value, low, high in _bounds_of(mask, holds, known):
            matters = self._logarithms.is_sum(value) or not known[value].finite
            if value in within and matters:
                before = narrower.get(value, known[value])
                narrower[value] = Range(
                    max(before.low, low), min(before.high, high), before.vanishes
                )
        if not narrower:
            return known[x]
        return self._of(x, {}, {**bounded, **narrower})


def _deviations(x: n.Expr) -> list[n.Reduce]:
    """The standard deviations that are lower bounds of a divisor, as far as is seen: a small number
    may be added to one, or bound it."""
    match x:
        case n.Reduce("std" | "pstd", _, _, None) as deviation:
            return [deviation]
        case n.Binary("max", a, b):
            return _deviations(a) + _deviations(b)
        case n.Binary("add", a, b):
            return (_deviations(a) if bounds(b)[0] >= 0 else []) + (
                _deviations(b) if bounds(a)[0] >= 0 else []
            )
        case n.Stop(a):
            return _deviations(a)
    return []


def _bounds_of(
    mask: n.Expr, holds: bool, known: Mapping[n.Expr, Range]
) -> Iterator[tuple[n.Expr, float, float]]:
    """The values that a mask bounds where it holds, or where it does not, each with its bounds, as
    far as comparisons, `and`, `or` and `not` show."""
    match mask:
        case n.Unary("not", m) | n.Stop(m):
            yield from _bounds_of(m, holds if isinstance(mask, n.Stop) else not holds, known)
        case n.Binary("and" | "or" as op, a, b) if (op == "and") is holds:
            yield from _bounds_of(a, holds, known)
            yield from _bounds_of(b, holds, known)
        case n.Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            small, large = (a, b) if (op in ("lt", "le")) is holds else (b, a)
            yield small, -math.inf, known[large].high
            yield large, known[small].low, math.inf
        case n.Binary("eq", a, b) if holds:
            yield a, known[b].low, known[b].high
            yield b, known[a].low, known[a].high
