"""Bounds that certainly hold for a value, from the domains of parameters and columns, and because
it is a probability, a length, a square or a deviation. Every analysis asks here for a sign or a
range."""

from __future__ import annotations

import math
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.ir.interval import ANY, Interval, larger, raised, smaller, summed, with_zero
from objdsl.ir.ops import BINARY, ORDER, REDUCE, UNARY

_LARGEST_EXPONENT = 88.0  # of float32


def bounds(x: n.Expr) -> Interval:
    """An interval that certainly contains `x`; a node remembers its own."""
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


def nonzero(x: n.Expr) -> bool:
    """Whether a number certainly is not 0."""
    low, high = bounds(x)
    return low > 0 or high < 0


def finite(x: n.Expr) -> bool:
    """Whether a value certainly is a number, neither infinite nor NaN, if its columns are. Ratios
    of probabilities, and sums and products of numbers, are assumed to be finite."""
    return all(map(_finite, n.topological(x)))


def _finite(x: n.Expr) -> bool:
    """The same, where the operands are finite."""
    match x:
        case n.Unary("exp", a):
            return bounds(a)[1] < _LARGEST_EXPONENT or all(
                isinstance(node, n.LogProb | n.LogDist | n.Binary | n.Unary | n.Stop)
                and getattr(node, "op", "sub") in ("add", "sub", "neg")
                for node in n.topological(a)
            )
        case n.Unary(op, a):
            start, low = UNARY[op].domain[0], bounds(a)[0]
            if math.isinf(start):
                return True
            return low > start if math.isinf(UNARY[op].value(start)) else low >= start
        case n.Binary("div", _, b):
            return nonzero(b)
        case n.Binary("pow", a, n.Const(k)):
            return nonzero(a) if k < 0 else bounds(a)[0] >= 0 or k == int(k)
        case n.Binary("pow"):
            return False
        case n.Binary("comb", a, _):
            return bounds(a)[0] >= 0
        case n.Const(value):
            return math.isfinite(value)
        case n.Reduce(op):
            return op != "std" and (x.where is None or math.isfinite(REDUCE[op].empty))
        case n.Peers(op):
            return _is_own_peer(x) or math.isfinite(REDUCE[op].empty)
        case n.Param() | n.Column() | n.LogProb() | n.LogDist() | n.Length() | n.Position():
            return True
        case n.Binary() | n.Clip() | n.Where() | n.Stop() | n.Present() | n.Scan() | n.Shift():
            return True
        case n.Quantile() | n.Order() | n.Pick() | n.Symbol():
            return True
    assert_never(x)


def _bounds(x: n.Expr) -> Interval:
    """The same, given the bounds of the operands."""
    if x.boolean:
        return 0.0, 1.0
    match x:
        case n.Const(value):
            return value, value
        case n.Param() | n.Column():
            return x.lower, x.upper
        case n.Length() | n.Position():
            return 1.0, math.inf
        case n.LogProb() | n.LogDist():
            return -math.inf, 0.0
        case n.Stop(inner):
            return bounds(inner)
        case n.Unary(op, a):
            return UNARY[op].over(bounds(a))
        case n.Binary("sub", n.Binary("sub", n.Unary("exp", a), b), n.Const(1.0)) if a == b:
            return 0.0, math.inf  # k3
        case n.Binary("mul", a, b) if a == b:
            return raised(bounds(a), 2.0)
        case n.Binary(op, a, b):
            return BINARY[op].over(bounds(a), bounds(b))
        case n.Clip(a, lo, hi):
            return smaller(larger(bounds(a), bounds(lo)), bounds(hi))
        case n.Where(m, a, b):
            (p, q), (r, s) = _side(m, True, a), _side(m, False, b)
            return min(p, r), max(q, s)
        case n.Reduce():
            return _reduced(x)
        case n.Present(a):
            return bounds(a)
        case n.Peers():
            return _among(x)
        case n.Scan(relation, a, decay) if decay is None or bounds(decay)[0] >= 0:
            whole = relation in ("<=", ">=")
            return summed(bounds(a) if whole else with_zero(bounds(a)))
        case n.Shift(a):
            return with_zero(bounds(a))
        case n.Quantile(_, a, _, mask):
            return bounds(a) if mask is None else with_zero(bounds(a))
        case n.Order(op):
            return ORDER[op].image
        case n.Scan() | n.Pick() | n.Symbol():
            return ANY
    assert_never(x)


def _side(mask: n.Expr, holds: bool, x: n.Expr) -> Interval:
    """The bounds of a value where a mask that compares it holds, or where it does not."""
    low, high = bounds(x)
    match mask:
        case n.Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            small, large = (a, b) if (op in ("lt", "le")) is holds else (b, a)
            if small == x:
                high = min(high, bounds(large)[1])
            if large == x:
                low = max(low, bounds(small)[0])
    return (low, high) if low <= high else bounds(x)


def _among(x: n.Peers) -> Interval:
    """The range of a value of peers: there may be none, unless an element is its own peer."""
    row, values = REDUCE[x.op], bounds(x.x)
    whole = row.over(values)
    if _is_own_peer(x) and x.op not in ("std", "pstd"):
        return whole
    return min(whole[0], row.empty), max(whole[1], row.empty)


def _is_own_peer(x: n.Peers) -> bool:
    """Whether every element is one of its peers, so that there always is one."""
    return x.where is None and x.relation in ("", "<=", ">=")


def _reduced(x: n.Reduce) -> Interval:
    row, values = REDUCE[x.op], bounds(x.x)
    whole = row.over(values)
    return whole if x.where is None else (min(whole[0], row.empty), max(whole[1], row.empty))
