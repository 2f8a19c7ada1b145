"""From mathematics to tensors: the formula as a computation over the rows of an optimizer step.

After lowering, a formula holds no `Stop` (weights are closed forms, so nothing is differentiated
again), no `Others`, no condition on a reduction, and every reduction runs over one index that its
operand carries. What remains maps one to one onto tensor operations.
"""

from __future__ import annotations

from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO, add, count, div, mul, neg, power, real, sub, where
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, WORD, Indices, over_to, union
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Const,
    Expr,
    Length,
    Others,
    Param,
    Position,
    Reduce,
    Stop,
    Unary,
    Where,
    bottom_up,
    topological,
)

SQUARE = Const(2.0)

# A scalar of more terms than this is not taken apart further: what is left is a value of the step.
_MOST_TERMS = 256


def lower(roots: list[Expr]) -> list[Expr]:
    """The same values, in terms of single-index reductions."""
    done: dict[Expr, Expr] = {}
    for node in topological(*roots):
        lowered = node.rebuilt({child: done[child] for child in node.children})
        done[node] = _lower(lowered)
    return [done[root] for root in roots]


def _lower(node: Expr) -> Expr:
    match node:
        case Stop(x):
            return x
        case Others(op, x):
            others = sub(Reduce("sum", ("i",), x), x)
            size = sub(count(("i",)), ONE)
            return others if op == "sum" else div(others, Binary("max", size, ONE))
        case Reduce():
            return _reduction(node)
    return node


def _reduction(node: Reduce) -> Expr:
    x, over, mask = real(node.x), node.over, node.where
    full = over_to(over)
    is_plain = len(over) == 1 and x.indices == full and mask is None
    match node.op:
        case "sum":
            return _sum(over, where(mask, x, ZERO) if mask is not None else x)
        case "mean":
            if is_plain and over != ("p",):
                return node
            total = _sum(over, where(mask, x, ZERO) if mask is not None else x)
            return div(total, _count(over, mask))
        case "std" | "pstd":
            if is_plain and over == ("i",):
                return node
            n = _sum(over, where(mask, ONE, ZERO) if mask is not None else ONE)
            mean = _lower(Reduce("mean", over, x, mask))
            square = power(sub(x, mean), SQUARE)
            total = _sum(over, where(mask, square, ZERO) if mask is not None else square)
            dof = n if node.op == "pstd" else sub(n, ONE)
            spread = Unary("sqrt", div(total, dof))
            return spread if mask is None else where(Binary("gt", n, ZERO), spread, ZERO)
        case "max" | "min":
            limit = Const(float("-inf" if node.op == "max" else "inf"))
            held = where(mask, x, limit) if mask is not None else x
            result = _nested(node.op, over, _carry(held, full))
            if mask is None:
                return result
            return where(Binary("gt", _sum(over, where(mask, ONE, ZERO)), ZERO), result, ZERO)
        case "prod":
            held = where(mask, x, ONE) if mask is not None else x
            return _nested("prod", over, _carry(held, full))
    raise TypeError(node.op)


def _count(over: Indices, mask: Expr | None) -> Expr:
    if mask is None:
        return _sum(over, ONE)
    return Binary("max", _sum(over, where(mask, ONE, ZERO)), ONE)


def _sum(over: Indices, x: Expr) -> Expr:
    """`sum[over] x`, one index after the other; where x lacks the index, times the number."""
    for index in reversed(over):
        if x.indices[-1:] == (index,):
            x = Reduce("sum", (index,), x)
        else:
            x = mul(x, Length() if index == "t" else count((index,)))
    return x


def _nested(op: str, over: Indices, x: Expr) -> Expr:
    for index in reversed(over):
        x = Reduce(op, (index,), x)  # type: ignore[arg-type]
    return x


def _carry(x: Expr, full: Indices) -> Expr:
    """`x` with all the indices of `full`, repeated along those that it lacks."""
    if x.indices == full:
        return x
    everywhere = {PROMPT: count(("i",)), RESPONSE: Length(), TOKEN: Position()}[full]
    return where(Binary("ge", everywhere, ONE), x, ZERO)


@dataclass(frozen=True)
class Shares:
    """A scalar as a sum over the rows of a step: of token terms, and of response terms.

    Sums over any split of the rows add up to the scalar, exactly.
    """

    tokens: Expr
    responses: Expr


def shares(scalar: Expr) -> Shares:
    """Write a scalar as a sum over rows. Outer sums and means are taken apart, with whatever
    divides them in front; a part that couples several rows is shared out evenly among them."""
    tokens, responses = ZERO, ZERO
    for coefficient, body in _terms(scalar, ONE):
        term = mul(coefficient, real(body))
        along = union(coefficient.indices, body.indices)
        if along == WORD:
            tokens = add(tokens, Reduce("sum", ("v",), term))
        elif along == TOKEN:
            tokens = add(tokens, term)
        elif along == PROMPT:
            responses = add(responses, div(term, count(("i",))))
        elif along == SCALAR:
            responses = add(responses, div(term, count(("p", "i"))))
        else:
            responses = add(responses, term)
    return Shares(tokens, responses)


def _terms(scalar: Expr, coefficient: Expr) -> list[tuple[Expr, Expr]]:
    """`scalar * coefficient` as a list of (coefficient, body); coefficients are data."""
    found: list[tuple[Expr, Expr]] = []
    stack = [(coefficient, scalar)]
    while stack:
        one = stack.pop()
        parts = _parts(*one) if len(found) + len(stack) < _MOST_TERMS else None
        if parts is None:
            found.append(one)
        else:
            stack += reversed(parts)
    return found


def _parts(coefficient: Expr, x: Expr) -> list[tuple[Expr, Expr]] | None:
    """The next step of that; None if `x` does not come apart."""
    if len(x.indices) >= len(TOKEN):
        return None
    match x:
        case Stop(inner):
            return [(coefficient, inner)]
        case Unary("neg", a):
            return [(neg(coefficient), a)]
        case Binary("add", a, b):
            return [(coefficient, a), (coefficient, b)]
        case Binary("sub", a, b):
            return [(coefficient, a), (neg(coefficient), b)]
        case Binary("mul", a, b) if not a.current:
            return [(mul(coefficient, a), b)]
        case Binary("mul", a, b) if not b.current:
            return [(mul(coefficient, b), a)]
        case Binary("div", a, b) if not b.current:
            return [(div(coefficient, b), a)]
        case Where(m, a, b) if b == ZERO and not m.current:
            return [(where(m, coefficient, ZERO), a)]
        case Reduce("sum" | "mean", over, body, mask):
            if mask is not None and mask.current and len(body.indices) < len(mask.indices):
                return None
            if len(body.indices) < len(over_to(over)):
                # The body lacks indices of the reduction: it counts once for each element.
                return None
            if x.op == "mean" and mask is not None and mask.current:
                # What it divides by changes with the policy: its parts cannot be split.
                return None
            if x.op == "mean":
                coefficient = div(coefficient, count(over, mask))
            if mask is None:
                return [(coefficient, real(body))]
            if mask.current:
                return [(coefficient, where(mask, real(body), ZERO))]
            return [(where(mask, coefficient, ZERO), real(body))]
    return None


def is_constant(node: Expr, known: dict[Expr, bool]) -> bool:
    """Whether a node is made of numbers and parameters alone."""

    def find(one: Expr) -> bool:
        if isinstance(one, Unary | Binary | Clip | Where):
            return all(known[child] for child in one.children)
        return isinstance(one, Const | Param)

    return bottom_up(node, known, find)
