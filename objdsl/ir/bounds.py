"""Bounds that surely hold for a value, from the domains of parameters and columns, and from what a
probability, a length, a square or a deviation is. Every analysis asks here for a sign or a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from objdsl.ir.nodes import (
    Binary,
    Clip,
    Column,
    Const,
    Expr,
    Length,
    LogDist,
    LogProb,
    Others,
    Param,
    Position,
    Reduce,
    Scan,
    Shift,
    Stop,
    Unary,
    Where,
    topological,
)

Interval = tuple[float, float]

_ANY: Interval = (-math.inf, math.inf)
_LARGEST_EXPONENT = 88.0  # of float32


def bounds(x: Expr) -> Interval:
    """An interval that surely holds `x`; a node remembers its own."""
    if x._bounds is not None:
        return x._bounds
    stack = [x]
    while stack:
        node = stack[-1]
        if node._bounds is None:
            waiting = [child for child in node.children if child._bounds is None]
            if waiting:
                stack += waiting
                continue
            object.__setattr__(node, "_bounds", _bounds(node))
        stack.pop()
    assert x._bounds is not None
    return x._bounds


def nonzero(x: Expr) -> bool:
    """Whether a number surely is not 0."""
    low, high = bounds(x)
    return low > 0 or high < 0


def finite(x: Expr) -> bool:
    """Whether a value surely is a number, neither infinite nor NaN, if its columns are. Ratios of
    probabilities are taken for finite."""
    return all(map(_finite, topological(x)))


def _finite(x: Expr) -> bool:
    """The same, where the operands are finite."""
    match x:
        case Unary("exp", a):
            return bounds(a)[1] < _LARGEST_EXPONENT or all(
                isinstance(node, LogProb | LogDist | Binary | Unary | Stop)
                and getattr(node, "op", "sub") in ("add", "sub", "neg")
                for node in topological(a)
            )
        case Unary("log", a):
            return bounds(a)[0] > 0
        case Unary("sqrt", a):
            return bounds(a)[0] >= 0
        case Binary("div", _, b):
            return nonzero(b)
        case Binary("pow", a, Const(k)):
            return nonzero(a) if k < 0 else bounds(a)[0] >= 0 or k == int(k)
        case Binary("pow"):
            return False
        case Const(value):
            return math.isfinite(value)
        case Reduce("std"):
            return False  # of a single one
    return True


def _bounds(x: Expr) -> Interval:
    """The same, when it is known of the operands."""
    if x.boolean:
        return 0.0, 1.0
    match x:
        case Const(value):
            return value, value
        case Param() | Column():
            return x.lower, x.upper
        case Length() | Position():
            return 1.0, math.inf
        case LogProb(policy) | LogDist(policy) if "/" not in policy:
            return -math.inf, 0.0
        case Stop(inner):
            return bounds(inner)
        case Unary(op, a):
            return _unary(op, *bounds(a))
        case Binary("sub", Binary("sub", Unary("exp", a), b), Const(1.0)) if a == b:
            return 0.0, math.inf  # k3
        case Binary("mul", a, b) if a == b:
            return raised(bounds(a), 2.0)
        case Binary(op, a, b):
            return _binary(op, bounds(a), bounds(b))
        case Clip(a, lo, hi):
            return _binary("min", _binary("max", bounds(a), bounds(lo)), bounds(hi))
        case Where(m, a, b):
            (p, q), (r, s) = _side(m, True, a), _side(m, False, b)
            return min(p, r), max(q, s)
        case Reduce():
            return _reduced(x)
        case Others(op, a):
            low, high = _with_zero(bounds(a))
            return (low, high) if op == "mean" else _many(low, high)
        case Scan(relation, a, decay) if decay is None or bounds(decay)[0] >= 0:
            whole = relation in ("<=", ">=")
            return _many(*(bounds(a) if whole else _with_zero(bounds(a))))
        case Shift(a):
            return _with_zero(bounds(a))
    return _ANY


def _side(mask: Expr, holds: bool, x: Expr) -> Interval:
    """The bounds of a value where a mask holds that compares it, or where it does not."""
    low, high = bounds(x)
    match mask:
        case Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            small, large = (a, b) if (op in ("lt", "le")) is holds else (b, a)
            if small == x:
                high = min(high, bounds(large)[1])
            if large == x:
                low = max(low, bounds(small)[0])
    return (low, high) if low <= high else bounds(x)


def _with_zero(interval: Interval) -> Interval:
    return min(interval[0], 0.0), max(interval[1], 0.0)


def _many(low: float, high: float) -> Interval:
    """A sum of one or more."""
    return (low if low >= 0 else -math.inf), (high if high <= 0 else math.inf)


def _reduced(x: Reduce) -> Interval:
    low, high = bounds(x.x)
    if x.where is not None and x.op != "prod":
        low, high = _with_zero((low, high))
    match x.op:
        case "sum":
            return _many(low, high)
        case "mean" | "max" | "min":
            return low, high
        case "std" | "pstd":
            return 0.0, high - low
        case "prod" if low >= 0:
            return (1.0 if low >= 1 else 0.0), (1.0 if high <= 1 else math.inf)
    return _ANY


_MONOTONE: dict[str, tuple[float, float, Callable[[float], float]]] = {
    "exp": (0.0, math.inf, math.exp),
    "log": (-math.inf, math.inf, math.log),
    "sqrt": (0.0, math.inf, math.sqrt),
    "sigmoid": (0.0, 1.0, lambda x: 1 / (1 + math.exp(-x))),
    "logsigmoid": (-math.inf, 0.0, lambda x: -math.log1p(math.exp(-x))),
    "sign": (-1.0, 1.0, lambda x: float((x > 0) - (x < 0))),
}


def _unary(op: str, low: float, high: float) -> Interval:
    match op:
        case "neg":
            return -high, -low
        case "abs":
            least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
            return least, max(abs(low), abs(high))
    least, most, function = _MONOTONE[op]
    return _at(function, low, least), _at(function, high, most)


def _at(function: Callable[[float], float], x: float, otherwise: float) -> float:
    """A function's value; the end of its range where x is beyond what it can be computed of."""
    try:
        return otherwise if math.isinf(x) else function(x)
    except (ValueError, OverflowError):
        return otherwise


def _binary(op: str, a: Interval, b: Interval) -> Interval:
    match op:
        case "add":
            return a[0] + b[0], a[1] + b[1]
        case "sub":
            return a[0] - b[1], a[1] - b[0]
        case "mul":
            return multiplied(a, b)
        case "div":
            if b[0] >= 0 or b[1] <= 0:
                return multiplied(a, raised(b, -1.0) if b[0] >= 0 else _inverse_below(b))
            return _ANY
        case "min":
            return min(a[0], b[0]), min(a[1], b[1])
        case "max":
            return max(a[0], b[0]), max(a[1], b[1])
        case "pow":
            if b[0] == b[1]:
                return raised(a, b[0])
            return (0.0, math.inf) if a[0] >= 0 else _ANY
    raise TypeError(f"no bounds of {op}")


def _inverse_below(b: Interval) -> Interval:
    low, high = raised((-b[1], -b[0]), -1.0)
    return -high, -low


def multiplied(a: Interval, b: Interval) -> Interval:
    corners = [times(x, y) for x in a for y in b]
    return min(corners), max(corners)


def times(a: float, b: float) -> float:
    """A product in which 0 times anything is 0, as of a bound that is never reached."""
    return 0.0 if a == 0 or b == 0 else a * b


def raised(x: Interval, exponent: float) -> Interval:
    """The power of an interval; of a root, of what is not negative in it."""
    low, high = x
    if low >= 0:
        ends = [_power(end, exponent) for end in x]
        return min(ends), max(ends)
    whole = exponent == int(exponent)
    if not whole:
        return 0.0, (_power(high, exponent) if exponent > 0 and high >= 0 else math.inf)
    if exponent > 0:
        ends = [_power(abs(low), exponent), _power(abs(high), exponent)]
        if exponent % 2 == 0:
            return (0.0 if high >= 0 else min(ends)), max(ends)
        return -ends[0], (ends[1] if high >= 0 else -ends[1])
    if high <= 0:
        ends = [_power(-low, exponent), _power(-high, exponent)]
        even = exponent % 2 == 0
        return (min(ends), max(ends)) if even else (-max(ends), -min(ends))
    return (0.0, math.inf) if exponent % 2 == 0 else _ANY


def _power(x: float, exponent: float) -> float:
    if x == 0:
        return 0.0 if exponent > 0 else (1.0 if exponent == 0 else math.inf)
    if math.isinf(x):
        return math.inf if exponent > 0 else (1.0 if exponent == 0 else 0.0)
    try:
        return float(x**exponent)
    except OverflowError:
        return math.inf
