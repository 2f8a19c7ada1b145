"""Arithmetic of intervals: each function returns an interval that contains all values of its
operation."""

from __future__ import annotations

import math

Interval = tuple[float, float]

ANY: Interval = (-math.inf, math.inf)


def added(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def subtracted(a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def divided(a: Interval, b: Interval) -> Interval:
    if b[0] >= 0:
        return multiplied(a, raised(b, -1.0))
    return multiplied(a, _inverse_below(b)) if b[1] <= 0 else ANY


def smaller(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), min(a[1], b[1])


def larger(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), max(a[1], b[1])


def exponentiated(a: Interval, b: Interval) -> Interval:
    if b[0] == b[1]:
        return raised(a, b[0])
    if a[0] > 0 and math.isfinite(a[1]) and all(map(math.isfinite, b)):
        ends = [_power(x, exponent) for x in a for exponent in b]  # it rises or falls in each
        return min(ends), max(ends)
    return (0.0, math.inf) if a[0] >= 0 else ANY


def with_zero(a: Interval) -> Interval:
    return min(a[0], 0.0), max(a[1], 0.0)


def summed(a: Interval) -> Interval:
    """A sum of one or more such values."""
    return (a[0] if a[0] >= 0 else -math.inf), (a[1] if a[1] <= 0 else math.inf)


def _inverse_below(b: Interval) -> Interval:
    low, high = raised((-b[1], -b[0]), -1.0)
    return -high, -low


def multiplied(a: Interval, b: Interval) -> Interval:
    corners = [times(x, y) for x in a for y in b]
    return min(corners), max(corners)


def times(a: float, b: float) -> float:
    """A product in which 0 times anything is 0, for a bound that is never reached."""
    return 0.0 if a == 0 or b == 0 else a * b


def raised(x: Interval, exponent: float) -> Interval:
    """The power of an interval; for a root, of its part that is not negative."""
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
    return (0.0, math.inf) if exponent % 2 == 0 else ANY


def _power(x: float, exponent: float) -> float:
    if x == 0:
        return 0.0 if exponent > 0 else (1.0 if exponent == 0 else math.inf)
    if math.isinf(x):
        return math.inf if exponent > 0 else (1.0 if exponent == 0 else 0.0)
    try:
        return float(x**exponent)
    except OverflowError:
        return math.inf
