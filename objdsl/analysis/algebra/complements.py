"""Parts of a value that add up to the value, such as A where it is positive and A where it is
negative.

In `(A if A > 0 and r < hi or A < 0 and r > lo else 0)` the masks leave out only responses whose A
is 0, on policy, so nothing of the weight is lost. `abs(A) * sign(A)` is A.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError, number, ordered
from objdsl.ir.build import ZERO

AsSum = Callable[[n.Expr], Sum]
"""Writes a formula as a sum of products."""


def joined(x: Sum, expand: AsSum) -> Sum:
    """A sum of products in which pairs that add up to one value are joined: the masks `q < 0` and
    `q > 0` of a multiple of q, `min(q, 0) + max(q, 0)`, `max(q, 0) - max(-q, 0)`, `abs(q) *
    sign(q)`."""
    bases = {base for factors in x.terms for base, _ in factors if _may_be_part(base)}
    if not bases:
        return x
    choices = sorted((b for b in bases if _masks(b, expand) & bases), key=lambda base: base.key)
    for choice in choices:
        x = _chosen(x, choice, expand)
    bases = {base for factors in x.terms for base, _ in factors if _may_be_part(base)}
    for first, second, sign, q in sorted(
        _pairs(bases, expand), key=lambda pair: (pair[0].key, pair[1].key)
    ):
        x = _joined(x, first, second, sign, expand(q))
    for absolute in sorted((b for b in bases if _is(b, "abs")), key=lambda base: base.key):
        x = _signed(x, absolute, expand)
    return x


def _masks(base: n.Expr, expand: AsSum) -> set[n.Expr]:
    """The masks that decide between two numbers, if a value is such a choice."""
    match base:
        case n.Where(mask, n.Const(), n.Const()):
            return {part for factors in expand(mask).terms for part, _ in factors}
    return set()


def _chosen(x: Sum, choice: n.Expr, expand: AsSum) -> Sum:
    """A sum in which a choice between two numbers is written with its mask."""
    assert isinstance(choice, n.Where)
    mask = expand(choice.m)
    result = Sum()
    for factors, c in x.terms.items():
        power = dict(factors).get(choice)
        if power is None:
            result += Sum({factors: c})
            continue
        yes, no = (
            float(side.value**power) for side in (choice.a, choice.b) if isinstance(side, n.Const)
        )
        rest = Sum({factors - {(choice, power)}: c})
        result += rest * (mask.scaled(yes - no) + number(no))
    return result


def _may_be_part(base: n.Expr) -> bool:
    """Whether a factor may be one of two that are a value together."""
    match base:
        case (
            n.Unary("abs")
            | n.Binary("lt" | "gt" | "min" | "max")
            | n.Where(_, n.Const(), n.Const())
        ):
            return True
    return False


def _pairs(bases: set[n.Expr], expand: AsSum) -> Iterator[tuple[n.Expr, n.Expr, int, n.Expr]]:
    """Pairs of factors that are q together, with the sign in front of the first."""
    for base in bases:
        match base:
            case n.Binary("lt" | "min" as below, q, zero) if zero == ZERO:
                above = n.Binary("gt" if below == "lt" else "max", q, ZERO)
                if above in bases:
                    yield base, above, 1, q
        match base:
            case n.Binary("min" | "max" as op, q, zero) if zero == ZERO:
                turned = n.Binary(op, (-expand(q)).expr(), ZERO)
                if turned in bases and base.key < turned.key:
                    yield turned, base, -1, q


def _joined(x: Sum, first: n.Expr, second: n.Expr, sign: int, q: Sum) -> Sum:
    beside: defaultdict[n.Expr | None, Sum] = defaultdict(Sum)
    for factors, c in x.terms.items():
        present = next((base for base in (first, second) if (base, 1.0) in factors), None)
        beside[present] += Sum({factors - {(present, 1.0)} if present else factors: c})
    same, rest = beside[second], beside[None]
    try:
        if beside[first] != same.scaled(sign):
            return x
        if not first.boolean:
            return rest + q * same
        return rest + same if _divides(q, same) else x
    except TooLargeError:
        return x


def _divides(q: Sum, x: Sum) -> bool:
    """Whether x is q times a sum."""
    parts = sorted(filter(None, q.terms), key=lambda f: [base.key for base, _ in ordered(f)])
    if not parts:
        return False
    first = parts[0]
    rest = {f - first: c / q.terms[first] for f, c in x.terms.items() if first <= f}
    return not (q * Sum(rest) - x).terms


def _is(base: n.Expr, op: str) -> bool:
    return isinstance(base, n.Unary) and base.op == op


def _signed(x: Sum, absolute: n.Expr, expand: AsSum) -> Sum:
    """The sum with q in place of `abs(q) * sign(q)`."""
    assert isinstance(absolute, n.Unary)
    sign = expand(n.Unary("sign", absolute.x))
    result = Sum()
    for factors, c in x.terms.items():
        rest = factors - {(absolute, 1.0)}
        only = sign.product
        if only is not None and (absolute, 1.0) in factors and only[0] <= rest:
            result += (expand(absolute.x) * Sum({rest - only[0]: c})).scaled(only[1])
        else:
            result += Sum({factors: c})
    return result
