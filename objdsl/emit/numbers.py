"""Which numbers of a formula Python's floats can compute with the results of float64 tensors."""

from __future__ import annotations

import math
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.ir.bounds import bounds
from objdsl.ir.ops import UNARY


def is_plain(node: n.Unary | n.Binary | n.Clip | n.Where, nonzero: frozenset[str]) -> bool:
    """Whether Python's floats compute what float64 tensors do: they raise where those give inf or
    NaN, and their `min` and `max` of NaN depend on the order.

    Args:
        nonzero: the parameters that are never 0.
    """
    match node:
        case n.Unary(op, x):
            python, (low, high) = UNARY[op].python, bounds(x)
            return python is not None and python[1][0] <= low <= high <= python[1][1]
        case n.Binary(op, _, b):
            match op:
                case "pow" | "comb":
                    return False
                case "div":
                    return _is_divisor(b, nonzero)
                case "min" | "max":
                    return all(map(_is_ordered, node.children))
                case "add" | "sub" | "mul" | "and" | "or":
                    return True
                case "lt" | "le" | "gt" | "ge" | "eq" | "ne":
                    return True
            assert_never(op)
        case n.Clip():
            return all(map(_is_ordered, node.children))
        case n.Where():
            return True
    assert_never(node)


def _is_divisor(x: n.Expr, nonzero: frozenset[str]) -> bool:
    """Whether a number certainly is not 0; a product of small ones may be."""
    match x:
        case n.Const(value):
            return value != 0
        case n.Param(name):
            return name in nonzero
        case n.Binary("mul", n.Const(c), b):
            return abs(c) >= 1 and _is_divisor(b, nonzero)
    low, high = bounds(x)
    return low > 0 or high < 0


def _is_ordered(x: n.Expr) -> bool:
    """Whether a number certainly is not NaN: parameters are not, and only infinities produce
    one."""
    return not x.children or all(map(math.isfinite, bounds(x)))
