"""Sums of products: their algebra, division, and bounds of their values.

A term is a number times a product of nodes of the IR, each with its power; see `expand`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import reduce

import objdsl.ir.nodes as n
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.bounds import bounds
from objdsl.ir.build import ONE, ZERO, add, const, div, mul, power
from objdsl.ir.interval import Interval, multiplied
from objdsl.ir.interval import raised as powered
from objdsl.ir.ops import UNARY

Factors = frozenset[tuple[n.Expr, float]]
"""A product of nodes, each with its power."""

# A formula with more terms than this, or more factors in one of them, is left in one piece.
# Published objectives have up to 12 terms of 8 factors.
_MOST_TERMS = 256
_MOST_FACTORS = 32
# Sums of more terms than these are not divided by each other.
_MOST_DIVISOR, _MOST_DIVIDED = 12, 64
# A difference of numbers that is closer to 0 than this is a rounding error.
_ROUNDING = 1e-12


class TooLargeError(ObjdslError):
    """A formula whose brackets multiply out to too many terms, or to numbers that are too large."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of products: a number for each set of factors."""

    terms: Mapping[Factors, float] = field(default_factory=dict)

    @property
    def number(self) -> float | None:
        """Its value, if it is a number."""
        if not self.terms:
            return 0.0
        return self.terms.get(frozenset()) if len(self.terms) == 1 else None

    @property
    def product(self) -> tuple[Factors, float] | None:
        """Its only term, if it has one."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 else None

    def __add__(self, other: Sum) -> Sum:
        terms = dict(self.terms)
        for factors, coefficient in other.terms.items():
            total = terms.get(factors, 0.0) + coefficient
            if abs(finite(total)) <= _ROUNDING * abs(coefficient):
                del terms[factors]
            else:
                terms[factors] = total
        if len(terms) > _MOST_TERMS:
            raise TooLargeError
        return Sum(terms)

    def __neg__(self) -> Sum:
        return self.scaled(-1)

    def __sub__(self, other: Sum) -> Sum:
        return self + -other

    def scaled(self, by: float) -> Sum:
        return Sum({f: finite(by * c) for f, c in self.terms.items()} if by else {})

    def __mul__(self, other: Sum) -> Sum:
        if len(self.terms) * len(other.terms) > 4 * _MOST_TERMS:  # some may be alike
            raise TooLargeError
        result: dict[Factors, float] = {}
        for f, c in self.terms.items():
            for g, d in other.terms.items():
                joined = _joined(f, g)
                if joined is not None:
                    result[joined] = finite(result.get(joined, 0.0) + c * d)
        if len(result) > _MOST_TERMS:
            raise TooLargeError
        return Sum({f: c for f, c in result.items() if abs(c) > 0})

    def expr(self) -> n.Expr:
        """The sum as a formula, the same for equal sums."""
        pieces = [product(factors, c) for factors, c in self.terms.items()]
        pieces.sort(key=lambda piece: piece.key)
        return reduce(add, pieces, ZERO)


def finite(x: float) -> float:
    if not math.isfinite(x):
        raise TooLargeError
    return x


def number(value: float) -> Sum:
    return Sum({frozenset(): float(value)}) if value else Sum()


def atom(expr: n.Expr, exponent: float = 1.0) -> Sum:
    return Sum({frozenset({(expr, exponent)}): 1.0})


def _joined(f: Factors, g: Factors) -> Factors | None:
    """The factors of a product; None if it is 0 because two of its masks exclude each other."""
    if not f or not g:
        return f or g
    if len(f) + len(g) > _MOST_FACTORS:
        raise TooLargeError
    powers = dict(f)
    for base, exponent in g:
        if base.boolean:
            if _opposite(base) in powers:
                return None
            powers[base] = 1.0  # a mask times itself is itself
        else:
            powers[base] = powers.get(base, 0.0) + exponent
            if isinstance(base, n.Unary) and base.op == "sign":
                # Almost everywhere; where the sign is 0, so is its operand.
                powers[base] %= 2
    return frozenset((base, e) for base, e in powers.items() if abs(e) > _ROUNDING)


def is_sum(base: n.Expr) -> bool:
    return isinstance(base, n.Binary) and base.op in ("add", "sub")


def size(x: Sum) -> float:
    return max((abs(c) for c in x.terms.values()), default=1.0)


def quotient(a: Sum, b: Sum) -> tuple[Sum, Sum]:
    """The terms of a sum that a different sum divides exactly, divided by it, and the other terms.

    `(s A + A + c) / (s + 1)` is `A`, and `c` over `s + 1`.
    """
    if not 2 <= len(b.terms) <= _MOST_DIVISOR or not 2 <= len(a.terms) <= _MOST_DIVIDED:
        return Sum(), a
    if any(x.boolean or (isinstance(x, n.Unary) and x.op == "sign") for x in bases_of(b)):
        return Sum(), a
    widths = _widths(b)
    if not _may_be_divided(a, widths):
        return Sum(), a
    whole = _divided(a, b)
    if whole is not None:
        return whole, Sum()
    total, rest = Sum(), Sum()
    for part in _neighbours(a, b):
        whole = _divided(part, b) if _may_be_divided(part, widths) else None
        if whole is None:
            rest = rest + part
        else:
            total = total + whole
    return total, rest


def _widths(x: Sum) -> dict[n.Expr, float]:
    """The differences between the powers of each factor in the terms."""
    powers = [dict(factors) for factors in x.terms]
    widths = {}
    for base in set(bases_of(x)):
        exponents = [power.get(base, 0.0) for power in powers]
        widths[base] = max(exponents) - min(exponents)
    return {base: width for base, width in widths.items() if width}


def _may_be_divided(a: Sum, widths: Mapping[n.Expr, float]) -> bool:
    """Whether the powers in a sum differ by at least as much as those in a divisor, which is
    necessary for division."""
    if len(a.terms) < 2:
        return False
    for base, width in widths.items():
        exponents = [dict(factors).get(base, 0.0) for factors in a.terms]
        if max(exponents) - min(exponents) < width:
            return False
    return True


def _divided(a: Sum, b: Sum) -> Sum | None:
    """An exact quotient, by long division with the monomials in the order of their exponents."""
    every = sorted({*bases_of(a), *bases_of(b)}, key=lambda base: base.key)
    order = {base: k for k, base in enumerate(every)}

    def degree(factors: Factors) -> list[float]:
        exponents = [0.0] * len(order)
        for base, e in factors:
            exponents[order[base]] = e
        return exponents

    first = max(b.terms, key=degree)
    divisor, result = atom_of(first, -1.0), Sum()
    for _ in range(2 * len(a.terms) + 2):
        if not a.terms:
            return result
        lead = max(a.terms, key=degree)
        part = Sum({lead: a.terms[lead] / b.terms[first]}) * divisor
        try:
            a, result = a - part * b, result + part
        except TooLargeError:
            return None
        if lead in a.terms:
            return None
    return None


def atom_of(factors: Factors, exponent: float) -> Sum:
    """The power of a product."""
    return Sum({frozenset((base, e * exponent) for base, e in factors): 1.0})


def _neighbours(a: Sum, b: Sum) -> list[Sum]:
    """The terms of a sum in parts, each of which a divisor may divide: terms of a part differ by
    the same factors as the divisor's terms."""
    monomials = [Sum({f: 1.0}) for f in b.terms]
    inverse = [atom_of(f, -1.0) for f in b.terms]
    steps = [x * y for x in monomials for y in inverse if (x * y).number is None]
    left, parts = dict(a.terms), []
    while left:
        factors = next(iter(left))
        stack, part = [factors], {factors: left.pop(factors)}
        while stack:
            here = Sum({stack.pop(): 1.0})
            for step in steps:
                for near in (here * step).terms:
                    if near in left:
                        part[near] = left.pop(near)
                        stack.append(near)
        parts.append(Sum(part))
    return parts


def _opposite(mask: n.Expr) -> n.Expr | None:
    """`x > 0` for `x < 0`, and vice versa; None for other values."""
    match mask:
        case n.Binary("lt", x, zero):
            return n.Binary("gt", x, zero)
        case n.Binary("gt", x, zero):
            return n.Binary("lt", x, zero)
    return None


def ordered(factors: Factors) -> list[tuple[n.Expr, float]]:
    """The factors, in an order that is the same in every process."""
    return sorted(factors, key=lambda power: (power[0].key, power[1]))


def product(factors: Factors, coefficient: float) -> n.Expr:
    above = [power(base, const(e)) for base, e in ordered(factors) if e > 0]
    below = [power(base, const(-e)) for base, e in ordered(factors) if e < 0]
    first: n.Expr = const(coefficient)
    return div(reduce(mul, above, first), reduce(mul, below, ONE))


def to_power(x: float, exponent: float) -> float:
    try:
        raised = x**exponent
    except (OverflowError, ZeroDivisionError):
        raise TooLargeError from None
    if isinstance(raised, complex):
        raise TooLargeError
    return finite(float(raised))


def bases_of(x: Sum) -> Iterator[n.Expr]:
    return (base for factors in x.terms for base, _ in factors)


def positive(x: n.Expr) -> bool:
    return interval(atom(x))[0] >= 0


def interval(x: Sum) -> Interval:
    """Certain bounds, from those of the factors. The lower bound of a value that approaches 0 but
    is never 0 is the smallest positive number."""
    low = high = 0.0
    for factors, c in x.terms.items():
        part: Interval = (c, c)
        for base, exponent in factors:
            of = bounds(base)
            part = multiplied(part, of if exponent == 1 else powered(of, exponent))
        low, high = low + part[0], high + part[1]
    if low == 0 and x.terms:
        above = all(c > 0 and all(above_zero(b) for b, _ in f) for f, c in x.terms.items())
        low = math.ulp(0.0) if above else low
    return low, high


def above_zero(base: n.Expr) -> bool:
    """Whether a value is certainly positive; a deviation may be 0, and then decides a
    comparison."""
    low = bounds(base)[0]
    return low > 0 or (low == 0 and isinstance(base, n.Unary) and not UNARY[base.op].attained)


def proportion(a: Sum, b: Sum) -> float | None:
    """The number c for which a sum is c times the other; None if there is none."""
    if not b.terms or a.terms.keys() != b.terms.keys():
        return None
    factors, c = next(iter(b.terms.items()))
    times = a.terms[factors] / c
    return None if (a - b.scaled(times)).terms else times
