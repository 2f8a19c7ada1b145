"""Ranges of values in float32, and where they overflow or underflow: interval arithmetic."""

from __future__ import annotations

import math
from enum import Enum
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.ops import UNARY, float32

_LARGEST = 3.4e38
_SMALLEST = 1e-38


class Fault(Enum):
    """How a value leaves the range of float32."""

    OVERFLOW = "too large"
    UNDERFLOW = "0, where it is positive"


Cause = tuple[n.Expr, Fault]


@dataclass(frozen=True)
class Range:
    """The numbers that a value may be.

    Attributes:
        vanishes: whether it may be rounded to 0.
        causes: the nodes at which it became infinite or 0, if it may be either.
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


def settled(x: Range) -> Range:
    """A range without the causes that no longer matter. A value that is merely large, such as a
    product of many factors at their extremes, does not count as infinite."""
    if not x.causes and not x.vanishes and -_LARGEST <= x.low <= x.high <= _LARGEST:
        return x
    low, high = (end if math.isinf(end) else _clamped(end) for end in (x.low, x.high))
    clamped = Range(low, high, x.vanishes, x.causes)
    if not clamped.finite:
        return clamped
    small = frozenset(cause for cause in x.causes if cause[1] is Fault.UNDERFLOW)
    return Range(low, high, x.vanishes, small if x.vanishes else frozenset())


def _clamped(x: float) -> float:
    return max(-_LARGEST, min(x, _LARGEST))


def unary(op: n.UnaryOp, x: Range, node: n.Expr) -> Range:
    """The range of a function of one value."""
    row = UNARY[op]
    least, most = row.domain
    ends = _least_operand(x.low, least, x.vanishes), min(x.high, most)
    low, high = map(float32, row.over((ends[0], max(ends))))
    causes = x.causes
    vanishes = x.vanishes and row.value(0.0) == 0
    if not row.attained and 0 in (low, high):
        vanishes = True
        causes |= {(node, Fault.UNDERFLOW)}
    if math.isinf(high) and math.isfinite(x.high):
        causes |= {(node, Fault.OVERFLOW)}
    return Range(min(low, _LARGEST), high, vanishes, causes)


def _least_operand(low: float, least: float, vanishes: bool) -> float:
    """The least operand of a function that is not defined below `least`. A value that is never 0
    only comes close to it, unless it may be rounded to 0."""
    if low > least or math.isinf(least):
        return low
    return least if vanishes or least else _SMALLEST


def binary(op: n.BinaryOp, a: Range, b: Range, node: n.Expr) -> Range:
    """The range of a function of two values."""
    causes = a.causes | b.causes
    match op:
        case "add":
            vanishes = a.vanishes and b.vanishes
            return Range(_sum(a.low, b.low), _sum(a.high, b.high), vanishes, causes)
        case "sub":
            # 1 - pi is 0 where float32 rounds pi to 1.
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
        case "comb":
            return Range(0.0, min(_raised(2.0, a.high), _LARGEST), causes=causes)
        case "lt" | "le" | "gt" | "ge" | "eq" | "ne" | "and" | "or":
            return Range(0.0, 1.0)
    assert_never(op)


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


def reduced(op: n.ReduceOp, size: int, x: Range, node: n.Expr) -> Range:
    """The range of a reduction of `size` elements."""
    match op:
        case "sum":
            ends = _times(x.low, size), _times(x.high, size)
            return Range(min(x.low, ends[0]), max(x.high, ends[1]), x.vanishes, x.causes)
        case "logsumexp":
            return Range(x.low, _sum(x.high, math.log(size)), causes=x.causes)
        case "std" | "pstd":
            return Range(0.0, _sum(x.high, -x.low), causes=x.causes)
        case "prod":
            high = _raised(max(abs(x.low), abs(x.high)), size)
            high = math.inf if high > _LARGEST else high
            under = frozenset({(node, Fault.UNDERFLOW)}) if abs(x.low) < 1 else frozenset()
            over = frozenset({(node, Fault.OVERFLOW)}) if math.isinf(high) else frozenset()
            return Range(min(x.low, 0.0), high, bool(under), x.causes | under | over)
        case "mean" | "max" | "min":
            return x
    assert_never(op)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _sum(a: float, b: float) -> float:
    """The first operand for inf - inf, which is NaN: the result is not finite either way."""
    return a if math.isinf(a) else a + b
