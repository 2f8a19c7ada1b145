"""Arithmetic of sums of products: functions of one or two values, and cancellation."""

from __future__ import annotations

import math
from functools import reduce

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.complements import joined
from objdsl.analysis.algebra.expansion import Expansion
from objdsl.analysis.algebra.sums import (
    Factors,
    Sum,
    above_zero,
    atom,
    bases_of,
    interval,
    is_sum,
    number,
    ordered,
    positive,
    product,
    quotient,
    size,
    to_power,
)
from objdsl.ir.build import ZERO, const
from objdsl.ir.ops import BINARY, unary


def unary_sum(expand: Expansion, op: n.UnaryOp, x: Sum, node: n.Expr) -> Sum:
    """A function of a sum; `node` is the formula that it is written as."""
    value = x.number
    match op:
        case "neg":
            return -x
        case "exp":
            return exponential(expand, x, node)
        case "log":
            return logarithm(expand, x, node)
        case "sqrt":
            return power(expand, x, 0.5, node)
    if value is not None:
        folded = unary(op, const(value))
        if isinstance(folded, n.Const):
            return number(folded.value)
    if op == "abs":
        low, high = interval(x)
        if low >= 0:
            return x
        if high <= 0:
            return -x
    if op == "sign":
        low, high = interval(x)
        if low > 0 or high < 0:
            return number(1.0 if low > 0 else -1.0)
        quantity, turned = compared(x)
        return expand.atom(n.Unary("sign", quantity), node).scaled(-1.0 if turned else 1.0)
    return expand.atom(n.Unary(op, x.expr()), node)


def exponential(expand: Expansion, x: Sum, node: n.Expr) -> Sum:
    """`exp(a + b)` is `exp(a) * exp(b)`, and `exp(c log a)` is `a^c`."""
    result = number(1)
    for factors, c in x.terms.items():
        if not factors:
            result = result.scaled(math.exp(min(c, 700.0)))
        else:
            base = product(factors, 1.0)
            if isinstance(base, n.Unary) and base.op == "log":
                result = times(expand, result, power(expand, expand(base.x), c, node))
            else:
                result = result * expand.atom(n.Unary("exp", base), node, c)
    return result


def logarithm(expand: Expansion, x: Sum, node: n.Expr) -> Sum:
    """`log(a * b)` is `log(a) + log(b)`; the logarithm of a sum of several terms stays whole."""
    term = x.product
    if term is None or term[1] <= 0:
        return expand.atom(n.Unary("log", x.expr()), node)
    result = number(math.log(term[1]))
    for base, exponent in ordered(term[0]):
        if isinstance(base, n.Unary) and base.op == "exp":
            result = result + expand(base.x).scaled(exponent)
        else:
            result = result + expand.atom(n.Unary("log", base), node).scaled(exponent)
    return result


def binary_sum(expand: Expansion, op: str, a: Sum, b: Sum, node: n.Expr) -> Sum:
    match op:
        case "add":
            return joined(a + b, expand)
        case "sub":
            return joined(a - b, expand)
        case "mul":
            return joined(times(expand, a, b), expand)
        case "div":
            divisor = node.b if isinstance(node, n.Binary) else node
            whole, rest = quotient(a, b)
            return whole + rest * power(expand, b, -1.0, divisor) if rest.terms else whole
        case "pow":
            exponent = b.number
            if exponent is not None:
                return power(expand, a, exponent, node)
            term = a.product
            if term is not None and term[1] > 0:
                return exponential(expand, b * logarithm(expand, a, node), node)
            return expand.atom(n.Binary("pow", a.expr(), b.expr()), node)
        case "comb":
            if a.number is not None and b.number is not None:
                return number(BINARY["comb"].value(a.number, b.number))
            return expand.atom(n.Binary("comb", a.expr(), b.expr()), node)
    raise TypeError(f"no expansion of {op}")


def times(expand: Expansion, a: Sum, b: Sum) -> Sum:
    """A product, in which a sum cancels against the same sum as a divisor before brackets are
    multiplied out: `a / (s + 1) * (s + 1)` is `a`."""
    if not any(map(is_sum, bases_of(a))) and not any(map(is_sum, bases_of(b))):
        return a * b
    for x, y in ((a, b), (b, a)):
        if len(y.terms) < 2:
            continue
        scale = size(y)
        for sign in (scale, -scale):
            base = y.scaled(1 / sign).expr()
            below = {f: c for f, c in x.terms.items() if dict(f).get(base, 0.0) < 0}
            if below:
                rest = Sum({f: c for f, c in x.terms.items() if f not in below})
                return (Sum(below) * atom(base)).scaled(sign) + times(expand, rest, y)
    return _powers_multiplied_out(expand, a * b)


def _powers_multiplied_out(expand: Expansion, x: Sum) -> Sum:
    """Multiplies out a product in which the power of a sum is a whole number again, as in the
    product of two roots."""
    result = Sum()
    for factors, c in x.terms.items():
        whole = [(b, e) for b, e in ordered(factors) if is_sum(b) and e in (1, 2, 3, 4)]
        term = Sum({factors.difference(whole): c})
        for base, e in whole:
            for _ in range(int(e)):
                term = term * expand(base)
        result = result + term
    return result


def reduced(expand: Expansion, x: Sum) -> Sum:
    """A sum whose terms are divided by other sums where there is no remainder: `(a G - a) / (G -
    1)` is `a`."""
    for base in sorted({b for b in bases_of(x) if is_sum(b)}, key=lambda base: base.key):
        powers: dict[float, dict[Factors, float]] = {}
        for factors, c in x.terms.items():
            e = dict(factors).get(base, 0.0)
            powers.setdefault(e, {})[factors - {(base, e)}] = c
        carried = Sum()
        for e in sorted(e for e in powers if e <= -1):
            above = Sum(powers.pop(e)) + (carried if carried.terms else Sum())
            carried, rest = quotient(above, expand(base))
            powers[e] = dict(rest.terms)
            if carried.terms:
                known = Sum(powers.pop(e + 1, {}))
                powers[e + 1] = dict((known + carried).terms)
                carried = Sum()
        x = Sum()
        for e, terms in powers.items():
            x = x + (Sum(terms) * atom(base, e) if e else Sum(terms))
    return x


def power(expand: Expansion, x: Sum, exponent: float, node: n.Expr) -> Sum:
    """A sum to the power of a number."""
    value, term = x.number, x.product
    if exponent == 1:
        return x
    if exponent == 0:
        return number(1)
    if value is not None:
        if value > 0 or (value < 0 and exponent == int(exponent)):
            return number(to_power(value, exponent))
        return number(0) if exponent > 0 else expand.atom(ZERO, node, exponent)
    whole = exponent == int(exponent)
    if term is not None and (whole or all(positive(base) for base, _ in term[0])):
        factors, c = term
        if (whole or c > 0) and not any(base.boolean for base, _ in factors):
            raised = frozenset((b, e * exponent) for b, e in factors)
            return Sum({raised: to_power(c, exponent)})
    if whole and 1 < exponent <= 4:
        return reduce(lambda y, _: y * x, range(int(exponent) - 1), x)
    # A sum keeps its own size, so that equal ones cancel: 2a + 2b is 2 (a + b).
    scale = size(x)
    return expand.atom(x.scaled(1 / scale).expr(), node, exponent).scaled(to_power(scale, exponent))


def compared(x: Sum) -> tuple[n.Expr, bool]:
    """A value with the sign of `x`, the same for all multiples of `x`; and whether its sign is the
    opposite one."""
    shared = frozenset.intersection(*x.terms)
    positive = frozenset((base, e) for base, e in shared if above_zero(base))
    terms = {factors - positive: c for factors, c in x.terms.items()}
    first = min(terms, key=lambda factors: [(base.key, e) for base, e in ordered(factors)])
    scale = terms[first]
    return Sum({f: round(c / scale, 12) for f, c in terms.items()}).expr(), scale < 0
