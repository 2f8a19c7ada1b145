"""Masks and choices: decided where that is possible, else kept as factors."""

from __future__ import annotations

import math
from typing import Literal

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.arithmetic import compared
from objdsl.analysis.algebra.expansion import Expansion
from objdsl.analysis.algebra.sums import Sum, atom, interval, number
from objdsl.ir.build import ONE, ZERO, const

# The mask of the last token, and the distance of a token from it.
_LAST: n.Expr = n.Binary("eq", n.Position(), n.Length())
_TO_THE_LAST = atom(n.Position()) - atom(n.Length())


def mask_sum(expand: Expansion, node: n.Expr) -> Sum:
    """A mask as a sum that is 1 where it holds, and 0 elsewhere."""
    match node:
        case n.Unary("not", x):
            return number(1) - expand(x)
        case n.Binary("and", a, b):
            return expand(a) * expand(b)
        case n.Binary("or", a, b):
            p, q = expand(a), expand(b)
            return p + q - p * q
        case n.Where(m, a, b):
            condition = expand(m)
            return condition * expand(a) + (number(1) - condition) * expand(b)
        case n.Stop(x):
            return expand(x)
        case _ if is_last(node):
            return expand.atom(_LAST, node)
        case n.Binary(op, a, b):
            return _compare(expand, op, a, b, node)
        case n.Order():
            return order(expand, node)
        case n.Pick(over, m, fraction):
            mask: n.Expr = n.Pick(over, mask_formula(expand, m), expand(fraction).expr())
        case _:
            mask = node
    return expand.atom(mask, node)


def order(expand: Expansion, node: n.Order) -> Sum:
    """The value of an order at each element, decided if all elements are equal."""
    x = expand(node.x)
    at = None if node.at is None else expand(node.at)
    tie = expand.at is None and node.where is None
    tie = tie and set(node.over).isdisjoint(x.expr().indices)
    match node.op:
        case "top" if tie and at is not None and interval(at)[1] < 1:
            return Sum()  # no element belongs to the largest where all are equal
        case "rank" if tie:
            return number(1)
        case "trim" if node.at is not None:
            # No element is left out where the largest possible value is within the limit.
            decide = expand.at or expand
            left = interval(decide(node.at) - decide(node.x))[0]
            if left > 0 or (left == 0 and expand.at is None):
                return number(1) if node.where is None else expand(node.where)
    where = None if node.where is None else mask_formula(expand, node.where)
    argument = None if at is None else at.expr()
    return expand.atom(n.Order(node.op, node.over, x.expr(), argument, where), node)


def _compare(expand: Expansion, op: str, a: n.Expr, b: n.Expr, node: n.Expr) -> Sum:
    if expand.at is not None and ((expand.at(a) - expand.at(b)).terms or expand(a) == expand(b)):
        # A strict comparison is also decided nearby; a tie may be decided either way.
        return expand.at(node)
    if op in ("gt", "ge"):
        return _compare(expand, "lt" if op == "gt" else "le", b, a, node)
    if op == "ne":
        return number(1) - _compare(expand, "eq", a, b, node)
    difference = expand(a) - expand(b)
    if op in ("lt", "le") and difference == _TO_THE_LAST:
        return number(1) if op == "le" else number(1) - expand(_LAST)
    low, high = interval(difference)
    if op == "lt" and (high < 0 or low >= 0):
        return number(float(high < 0))
    if op == "le" and (high <= 0 or low > 0):
        return number(float(high <= 0))
    if op == "eq" and (low > 0 or high < 0 or low == high == 0):
        return number(float(low == high == 0))
    indicator = _indicator(op, difference)
    if indicator is not None:
        return indicator
    # All comparisons of a quantity with 0 are made of two masks that exclude each other.
    quantity, turned = compared(difference)
    below = expand.atom(n.Binary("gt" if turned else "lt", quantity, ZERO), node)
    above = expand.atom(n.Binary("lt" if turned else "gt", quantity, ZERO), node)
    if op == "lt":
        return below
    if op == "eq" and (low >= 0 or high <= 0):
        return number(1) - (above if low >= 0 else below)
    return number(1) - above if op == "le" else number(1) - above - below


def extremum(
    expand: Expansion, op: Literal["min", "max"], a: n.Expr, b: n.Expr, node: n.Expr
) -> Sum:
    """The operand that is certainly the smaller or larger one, or else a factor."""
    never = n.Const(math.inf if op == "min" else -math.inf)
    if never in (a, b):
        return expand(b if a == never else a)
    decide = expand.at or expand
    low, high = interval(decide(a) - decide(b))
    if high < 0 or low > 0:
        return expand(a if (high < 0) == (op == "min") else b)
    p, q = expand(a), expand(b)
    if p == q:
        return p
    if expand.at is None and (high <= 0 or low >= 0):
        return p if (high <= 0) == (op == "min") else q
    return expand.atom(n.Binary(op, p.expr(), q.expr()), node)


def clip(expand: Expansion, x: n.Expr, lo: n.Expr, hi: n.Expr, node: n.Expr) -> Sum:
    """The value or the bound that it certainly is, or else a factor."""
    if hi == n.Const(math.inf):
        return extremum(expand, "max", x, lo, node)
    if lo == n.Const(-math.inf):
        return extremum(expand, "min", x, hi, node)
    decide = expand.at or expand
    value, low, high = decide(x), decide(lo), decide(hi)
    inside = interval(value - low)[0], interval(high - value)[0]
    # A tie may be decided either way where the policies differ.
    moves = expand.at is not None and expand(x) != value
    if min(inside) > 0 or (min(inside) >= 0 and not moves):
        return expand(x)
    if interval(value - low)[1] < 0:
        return expand(lo)
    if interval(value - high)[0] > 0:
        return expand(hi)
    bounded = n.Clip(expand(x).expr(), expand(lo).expr(), expand(hi).expr())
    return expand.atom(bounded, node)


def choice(expand: Expansion, m: n.Expr, a: n.Expr, b: n.Expr, node: n.Expr) -> Sum:
    """`a if m else b`."""
    mask = expand(m)
    if mask.number is not None:
        return expand(a if mask.number else b)
    p, q = expand(a), expand(b)
    if p == q:
        return p
    if p.number and q.number:
        # One of two numbers, `tau_pos if A > 0 else tau_neg`, is one factor: it may cancel.
        sides = const(p.number), const(q.number)
        match mask.product, (number(1) - mask).product:
            case (factors, 1.0), _ if len(factors) == 1:
                ((m, _),) = factors
            case _, (factors, 1.0) if len(factors) == 1:
                ((m, _),) = factors
                sides = sides[::-1]
            case _:
                m = mask_formula(expand, m)
        return expand.atom(n.Where(m, *sides), node)
    return q + mask * (p - q)


def mask_formula(expand: Expansion, m: n.Expr | None) -> n.Expr:
    """A mask whose comparisons are expanded; still a mask."""
    match m:
        case n.Unary("not", x):
            return n.Unary("not", mask_formula(expand, x))
        case n.Binary("and" | "or" as op, a, b):
            return n.Binary(op, mask_formula(expand, a), mask_formula(expand, b))
        case n.Binary(op, a, b):
            return n.Binary(op, expand(a).expr(), expand(b).expr())
        case n.Stop(x):
            return mask_formula(expand, x)
    assert m is not None
    return m


def is_last(node: n.Expr) -> bool:
    """Whether a value is the mask of the last token, `t == |y|`."""
    match node:
        case n.Where(mask, yes, no) if (yes, no) == (ONE, ZERO):
            return is_last(mask)
        case n.Binary("eq" | "ge", n.Position(), n.Length()) | n.Binary(
            "eq" | "le", n.Length(), n.Position()
        ):
            return True
    return False


def _indicator(op: str, difference: Sum) -> Sum | None:
    """A comparison with a number of a column that has two values: `reward == 1` is an affine
    function of the reward."""
    columns = {
        base
        for factors in difference.terms
        for base, e in factors
        if isinstance(base, n.Column) and len(set(base.values)) == 2 and e == 1
    }
    if len(columns) != 1:
        return None
    (column,) = columns
    slope = difference.terms.get(frozenset({(column, 1.0)}))
    rest = difference - atom(column).scaled(slope or 0.0)
    if slope is None or rest.number is None:
        return None

    def holds(x: float) -> float:
        value = slope * x + rest.number  # type: ignore[operator]
        return float(value == 0 if op == "eq" else value <= 0 if op == "le" else value < 0)

    low, high = sorted(set(column.values))
    rise = (holds(high) - holds(low)) / (high - low)
    return number(holds(low) - rise * low) + atom(column).scaled(rise)
