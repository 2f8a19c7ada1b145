"""Parts of an objective that are infinite or NaN, whatever the data are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import objdsl.ir.nodes as n
from objdsl.ir.objective import Objective
from objdsl.ir.ops import BINARY, UNARY


def not_finite(objective: Objective) -> list[tuple[n.Expr, float]]:
    """The nodes at which an infinity or a NaN arises, each with that value: in all formulas of a
    file, including its definitions and reports, at the values of its parameters.

    An infinite bound, as in `clip(x, 0, inf)` or `min(x, inf)`, does not count.
    """
    params = {param.name: param.default for param in objective.params}
    roots = [*objective.roots, *(named.value for named in objective.bindings)]
    nodes = n.topological(*roots)
    values: dict[n.Expr, float | None] = {}
    for node in nodes:
        values[node] = _value(node, values, params)
    used = {child for node in nodes for child in node.children if not _bounds(node, child)}
    used |= set(roots)
    return [
        (node, value)
        for node in nodes
        if (value := values[node]) is not None
        and not math.isfinite(value)
        and all(_finite(values[child]) for child in node.children)
        and (node in used or math.isnan(value))
    ]


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _bounds(node: n.Expr, child: n.Expr) -> bool:
    """Whether an operand only bounds a different one, or is compared with it."""
    match node:
        case n.Clip(x):
            return child != x
        case n.Binary(op):
            return op in ("min", "max") or op in n.COMPARISONS
    return False


def _value(
    node: n.Expr, values: Mapping[n.Expr, float | None], params: Mapping[str, float]
) -> float | None:
    """The value of a node, whatever the data are; None if it depends on them, or is not known."""
    below = [values[child] for child in node.children]
    known = [value for value in below if value is not None]
    match node:
        case n.Const(value):
            return value
        case n.Param(name):
            return params[name]
        case n.Binary("div", _, _) if below[1] == 0:
            return math.nan if below[0] == 0 else math.inf
        case n.Where(m, _, _) if values[m] is not None:
            return below[1] if values[m] else below[2]
        case _ if len(known) < len(below):
            return None
        case n.Unary(op, _):
            return UNARY[op].value(known[0])
        case n.Binary(op, _, _):
            return BINARY[op].value(known[0], known[1])
        case n.Clip():
            x, low, high = known
            return min(max(x, low), high)
        case n.Stop():
            return known[0]
        case n.Reduce("mean" | "max" | "min", _, _, None) | n.Quantile(_, _, _, None):
            return known[0]
        case n.Order("rank", _, _, _, None):
            return 1.0
    return None


def places(objective: Objective) -> Iterator[tuple[n.Expr, float, n.Expr]]:
    """The nodes of `not_finite`, each with the smallest node around it that has a place in the
    text."""
    values = not_finite(objective)
    if not values:
        return
    roots = [*objective.roots, *(named.value for named in objective.bindings)]
    nodes = n.topological(*roots)
    for node, value in values:
        around: set[n.Expr] = set()
        for outer in nodes:
            if outer == node or not around.isdisjoint(outer.children):
                around.add(outer)
                if outer.span is not None:
                    yield node, value, outer
                    break
        else:
            yield node, value, objective.goal
