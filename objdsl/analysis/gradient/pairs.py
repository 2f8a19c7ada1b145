"""Rewards of pairs: a mean over the others of a symmetric function of both values.

With f(a, b) = f(b, a) and a second, independent response, `grad E[f(R, R')]` is the sum of two
equal parts, one for each response, so `2 E[f(R, R') sum_t s_t]`: a response that is credited with
`mean[j != i] f(R_j, R_i)` raises half of `E[f(R, R')]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import powers
from objdsl.analysis.gradient.weight import GROUP_SIZES, sizes_of
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO, mul
from objdsl.ir.differentiate import swapped
from objdsl.ir.indices import RESPONSE


@dataclass(frozen=True)
class Pairs:
    """What the gradient raises the expectation of, up to a positive constant.

    Attributes:
        alone: functions of a single response, each with its constant.
        value: the function of two responses; `Present` are the values of the first.
    """

    alone: dict[n.Expr, float]
    value: n.Expr


def pairs(estimator: Estimator) -> Pairs | None:
    """The function of two responses whose expectation is raised; None if there is none, or
    something else changes with the response."""
    objective = estimator.objective
    if estimator.branch is not None or objective.keep is not None:
        return None
    group = objective.sampling.group
    every = [_pairs(estimator, size) for size in ((group,) if group else GROUP_SIZES)]
    return every[0] if all(x == every[0] for x in every) else None


def _pairs(estimator: Estimator, group: int) -> Pairs | None:
    """The function in groups of a size."""
    sizes = sizes_of(group)
    alone: defaultdict[n.Expr, float] = defaultdict(float)
    values: defaultdict[n.Expr, float] = defaultdict(float)
    for term in estimator.terms:
        size, varying = estimator.sized(term, sizes)
        c = size * term.coefficient
        match [factor.base for factor in varying if factor.exponent == 1]:
            case [n.Peers("sum" | "mean" as op, ("i",), x, (), "!=", None)] if (
                len(varying) == 1 and (value := _value(x, term.reward)) is not None
            ):
                values[value] += c * (group - 1 if op == "sum" else 1)
            case _ if term.reward or any(factor.depends.on_response for factor in varying):
                value = Sum({powers(varying): 1.0}).expr()
                value = value if term.reward is None else mul(term.reward, value)
                if value.paired or not all(map(_is_of_response, n.topological(value))):
                    return None
                alone[value] += c
    exchanged = {swapped(value): c for value, c in values.items()}
    if not values or _ordered(values) != _ordered(exchanged):
        return None
    scale = max(abs(c) for c in (*values.values(), *(2 * c for c in alone.values())))
    if not scale:
        return None
    parts = {swapped(value): round(c / scale, 12) for value, c in values.items()}
    total = Sum({frozenset({(value, 1.0)}): c for value, c in parts.items() if c})
    constants = {value: round(2 * c / scale, 12) for value, c in alone.items() if c}
    return Pairs(constants, total.expr())


def _value(x: n.Expr, reward: n.Column | None) -> n.Expr | None:
    """The value of two responses that is averaged, times the reward of the present one."""
    if reward is not None:
        x = mul(x, n.Present(reward))
    return x if x.paired and all(map(_is_of_response, n.topological(x))) else None


def _is_of_response(node: n.Expr) -> bool:
    """Whether a value is data that belongs to a response, or a function of such."""
    if isinstance(node, n.Column):
        return node.over == RESPONSE and node.known == "response"
    return isinstance(node, n.Const | n.Present | n.Unary | n.Binary | n.Clip | n.Where)


def _ordered(values: Mapping[n.Expr, float]) -> dict[n.Expr, float]:
    """Values with the operands of what does not depend on their order in one order."""
    totals: dict[n.Expr, float] = {}
    for value, c in values.items():
        done: dict[n.Expr, n.Expr] = {}
        for node in n.topological(value):
            done[node] = _in_order(node.rebuilt(done))
        totals[done[value]] = totals.get(done[value], 0.0) + c
    return totals


def _in_order(node: n.Expr) -> n.Expr:
    match node:
        case n.Binary("gt" | "ge" as op, a, b):
            return _in_order(n.Binary("lt" if op == "gt" else "le", b, a))
        case n.Binary("lt" | "le" as op, n.Binary("sub", a, b), zero) if zero == ZERO:
            return n.Binary(op, a, b)
        case n.Binary("lt" | "le" as op, zero, n.Binary("sub", a, b)) if zero == ZERO:
            return n.Binary(op, b, a)
        case n.Binary(op, a, b) if op in _COMMUTATIVE and b.key < a.key:
            return n.Binary(op, b, a)
        case n.Unary("abs", n.Binary("sub", a, b)) if b.key < a.key:
            return n.Unary("abs", n.Binary("sub", b, a))
        case n.Binary("pow", n.Binary("sub", a, b), n.Const(2.0) as two) if b.key < a.key:
            return n.Binary("pow", n.Binary("sub", b, a), two)
    return node


_COMMUTATIVE = frozenset({"add", "mul", "min", "max", "eq", "ne", "and", "or"})
