"""From mathematics to tensors: the formula as a computation over the rows of an optimizer step.

After lowering, a formula holds no `Stop` (weights are closed forms, so nothing is differentiated
again), of peers only sums, products and extrema, no `Quantile`, no condition on a reduction, and
every reduction that takes indices away runs over one, which its operand carries. What remains maps
one to one onto tensor operations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.bounds import nonzero
from objdsl.ir.build import (
    ONE,
    ZERO,
    add,
    count,
    div,
    is_size,
    mul,
    neg,
    power,
    real,
    sub,
    sum_over,
    where,
)
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, Indices, over_to, remove
from objdsl.ir.text import text

SQUARE = n.Const(2.0)

# The most terms that a scalar is split into; the rest is a single value of the step.
_MOST_TERMS = 256


def lower(roots: list[n.Expr]) -> list[n.Expr]:
    """The same values, in terms of single-index reductions."""
    done: dict[n.Expr, n.Expr] = {}
    for node in n.topological(*roots):
        lowered = node.rebuilt({child: done[child] for child in node.children})
        done[node] = _lower(lowered)
    return [done[root] for root in roots]


def _lower(node: n.Expr) -> n.Expr:
    match node:
        case n.Stop(x):
            return x
        case n.Peers() if not any(isinstance(key, Place) for key in node.keys):
            return _peers(node)
        case n.Reduce():
            return _reduction(node)
        case n.Quantile(over, x):
            x = _carry(real(x), over_to(over))
            part = replace(node.shares, x=x)
            taken = where(n.Binary("gt", part, ZERO), mul(part, x), ZERO)
            return _sum(over, taken)
        case n.Order(_, over, x):
            return replace(node, x=_carry(real(x), over_to(over)))
    return node


@dataclass(frozen=True, eq=False, slots=True)
class Place(n.Symbol):
    """Which elements along `over` share the keys: how many places before each one the first of them
    is, in the order of the step."""

    over: Indices
    here: Indices
    keys: tuple[n.Expr, ...]

    def __str__(self) -> str:
        return ", ".join(map(text, self.keys)) or "response"

    def _indices(self) -> Indices:
        return self.here


def place_of(node: n.Peers) -> Place | None:
    """The place of a lowered value of peers; None if all responses to a prompt are peers."""
    match node.keys:
        case (Place() as place,):
            return place
    return None


def operands(node: n.Expr) -> tuple[n.Expr, ...]:
    """The values that a lowered value is computed from; for a comparison of two elements, the parts
    that belong to one of them."""
    if not isinstance(node, n.Peers) or not node.x.paired:
        return node.children
    parts: dict[n.Expr, None] = {}
    stack: list[n.Expr] = [node.x]
    while stack:
        part = stack.pop()
        match part:
            case n.Present(x):
                parts[x] = None
            case _ if part.paired:
                stack += reversed(part.children)
            case _:
                parts[part] = None
    return (*parts, *node.keys)


def _peers(node: n.Peers) -> n.Expr:
    """A value of peers as sums, products or extrema over elements that have a value each."""
    x, mask, many = real(node.x), node.where, _size(node)
    sure = mask is None and node.relation in ("", "<=", ">=")  # the own is among them
    match node.op:
        case "sum":
            return _total(node, "sum", x, ZERO)
        case "mean":
            least = many if sure else n.Binary("max", many, ONE)
            return div(_total(node, "sum", x, ZERO), least)
        case "prod":
            return _total(node, "prod", x, ONE)
        case "max" | "min":
            limit = n.Const(float("-inf" if node.op == "max" else "inf"))
            extreme = _total(node, node.op, x, limit)
            return extreme if sure else where(n.Binary("gt", many, ZERO), extreme, ZERO)
        case "logsumexp":
            most = _peers(node.like("max", x, mask))
            shifted = n.Unary("exp", sub(x, node.seen(most)))
            return add(most, n.Unary("log", _total(node, "sum", shifted, ZERO)))
        case "std" | "pstd":
            mean = node.seen(_peers(node.like("mean", x, mask)))
            squares = _total(node, "sum", power(sub(x, mean), SQUARE), ZERO)
            dof = many if node.op == "pstd" else sub(many, ONE)
            return where(n.Binary("gt", dof, ZERO), n.Unary("sqrt", div(squares, dof)), ZERO)
    assert_never(node.op)


def _size(node: n.Peers) -> n.Expr:
    """How many peers there are, where the mask holds."""
    return _total(node, "sum", ONE, ZERO)


def _total(node: n.Peers, op: n.ReduceOp, x: n.Expr, neutral: n.Expr) -> n.Expr:
    """`op` over the peers; what a key or a relation does not tell apart, the tokens of a response,
    say, is reduced first."""
    if node.where is not None:
        x = where(node.where, x, neutral)
    if op == "sum" and node.others and not x.paired and x.indices != RESPONSE:
        return mul(x, sub(count(("i",)), ONE))
    over = tuple(index for index in node.over if index in node.indices)
    for index in reversed(remove(node.over, over)):
        if op == "sum":
            x = _sum((index,), x)
        else:
            x = n.Reduce(op, (index,), _carry(x, over_to((index,))))
    scans = node.relation not in ("", "!=")
    if not node.keys and not scans:
        return n.Peers(op, over, x, (), node.relation)
    return n.Peers(op, over, x, (Place(over, node.indices, node.keys),), node.relation)


def _reduction(node: n.Reduce) -> n.Expr:
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
            size = _sum(over, where(mask, ONE, ZERO) if mask is not None else ONE)
            mean = _lower(n.Reduce("mean", over, x, mask))
            square = power(sub(x, mean), SQUARE)
            total = _sum(over, where(mask, square, ZERO) if mask is not None else square)
            dof = size if node.op == "pstd" else sub(size, ONE)
            deviation = n.Unary("sqrt", div(total, dof))
            return deviation if mask is None else where(n.Binary("gt", size, ZERO), deviation, ZERO)
        case "max" | "min":
            limit = n.Const(float("-inf" if node.op == "max" else "inf"))
            filled = where(mask, x, limit) if mask is not None else x
            result = _nested(node.op, over, _carry(filled, full))
            if mask is None:
                return result
            return where(n.Binary("gt", _sum(over, where(mask, ONE, ZERO)), ZERO), result, ZERO)
        case "logsumexp":
            most = _lower(n.Reduce("max", over, x, mask))
            shifted = n.Unary("exp", sub(x, most))
            total = _sum(over, where(mask, shifted, ZERO) if mask is not None else shifted)
            return add(most, n.Unary("log", total))
        case "prod":
            filled = where(mask, x, ONE) if mask is not None else x
            return _nested("prod", over, _carry(filled, full))
    assert_never(node.op)


def _count(over: Indices, mask: n.Expr | None) -> n.Expr:
    if mask is None:
        return _sum(over, ONE)
    return n.Binary("max", _sum(over, where(mask, ONE, ZERO)), ONE)


def _sum(over: Indices, x: n.Expr) -> n.Expr:
    """`sum[over] x`, one index after the other; if x lacks the index, times the number of
    elements."""
    for index in reversed(over):
        if x.indices[-1:] == (index,):
            x = n.Reduce("sum", (index,), x)
        else:
            x = mul(x, n.Length() if index == "t" else count((index,)))
    return x


def _nested(op: n.ReduceOp, over: Indices, x: n.Expr) -> n.Expr:
    for index in reversed(over):
        x = n.Reduce(op, (index,), x)
    return x


def _carry(x: n.Expr, full: Indices) -> n.Expr:
    """`x` with all the indices of `full`, repeated along those that it lacks."""
    if x.indices == full:
        return x
    everywhere = {PROMPT: count(("i",)), RESPONSE: n.Length(), TOKEN: n.Position()}[full]
    return where(n.Binary("ge", everywhere, ONE), x, ZERO)


@dataclass(frozen=True)
class Shares:
    """A scalar as a sum over the rows of a step: of token terms, and of response terms.

    Sums over any split of the rows add up to the scalar, exactly.
    """

    tokens: n.Expr
    responses: n.Expr


@dataclass(frozen=True)
class _Term:
    """`sum[along] factor * body`, a part of a scalar.

    `along` says which elements are added up, whatever `factor` and `body` carry: the indices of
    both are among its own, and a product that lacks some of them counts once for every element.
    `factor` is data.
    """

    along: Indices
    factor: n.Expr
    body: n.Expr


def shares(scalar: n.Expr) -> Shares:
    """Write a scalar as a sum over rows. Outer sums and means are taken apart, with whatever
    divides them in front; a part that couples several rows is shared out evenly among them."""
    tokens, responses = ZERO, ZERO
    for term in _terms(scalar):
        x = mul(term.factor, real(term.body))
        match term.along:
            case ("p", "i", "t", "v"):
                tokens = add(tokens, n.Reduce("sum", ("v",), x))
            case ("p", "i", "t"):
                tokens = add(tokens, x)
            case ("p", "i"):
                responses = add(responses, x)
            case ("p",):
                responses = add(responses, div(x, count(("i",))))
            case ():
                responses = add(responses, div(x, count(("p", "i"))))
            case other:
                raise TypeError(f"no sum over rows runs over {other}")
    return Shares(tokens, responses)


def _terms(scalar: n.Expr) -> list[_Term]:
    """A scalar as a sum of terms, in the order of its text."""
    terms: list[_Term] = []
    stack = [_Term(SCALAR, ONE, scalar)]
    while stack:
        term = stack.pop()
        parts = _parts(term) if len(terms) + len(stack) < _MOST_TERMS else None
        if parts is None:
            terms.append(term)
        else:
            stack += reversed(parts)
    return terms


def _parts(term: _Term) -> list[_Term] | None:
    """Terms that add up to a term; None if it cannot be split."""
    along, factor, x = term.along, term.factor, term.body
    if len(x.indices) >= len(TOKEN):
        return None
    match x:
        case n.Stop(a):
            return [_Term(along, factor, a)]
        case n.Unary("neg", a):
            return [_Term(along, neg(factor), a)]
        case n.Binary("add", a, b) if _varies(x, along):
            return [_Term(along, factor, a), _Term(along, factor, b)]
        case n.Binary("sub", a, b) if _varies(x, along):
            return [_Term(along, factor, a), _Term(along, neg(factor), b)]
        case n.Binary("mul", a, b) if _is_factor(a, x):
            return [_Term(along, mul(factor, a), b)]
        case n.Binary("mul", a, b) if _is_factor(b, x):
            return [_Term(along, mul(factor, b), a)]
        case n.Binary("div", a, b) if _is_factor(b, x):
            return [_Term(along, div(factor, b), a)]
        case n.Where(m, a, b) if b == ZERO and not m.current:
            return [_Term(along, where(m, factor, ZERO), a)]
        case n.Where(m, a, b) if x.current and not m.current and len(along) < len(RESPONSE):
            sides = (where(m, factor, ZERO), a), (where(m, ZERO, factor), b)
            return [_Term(along, f, side) for f, side in sides]
        case n.Reduce("sum" | "mean"):
            return _opened(term, x)
    return None


def _varies(x: n.Expr, along: Indices) -> bool:
    """Whether to look for sums in the summands of `x`: those of data are left where they are
    when `x` is a value of a row already."""
    return x.current or len(along) < len(RESPONSE)


def _is_factor(f: n.Expr, x: n.Expr) -> bool:
    """Whether `f` may be multiplied by, or divided by, before `x` is summed. Data need no sum of
    their own in every part of a step: only a size is such a factor, and one that is never zero."""
    return not f.current if x.current else is_size(f) and nonzero(f)


def _opened(term: _Term, x: n.Reduce) -> list[_Term] | None:
    """A sum or mean as the sum over its elements, where the term sums over no others.

    Where it does, `sum[p,i] (f * sum[i] x)`, the factor is summed instead: the reduction is the
    same for all of those elements.
    """
    along, factor, mask = term.along, term.factor, x.where
    body = real(x.x)
    if mask is not None and mask.current:
        if x.op == "mean":
            return None  # what it divides by changes with the policy
        body, mask = where(mask, body, ZERO), None
    if x.indices != along:
        if not x.current:
            return None  # a number of the step's data, known before it is cut
        factor = _gathered(remove(along, x.indices), factor)
    if x.op == "mean":
        factor = div(factor, count(x.over, mask))
    if mask is not None:
        factor = where(mask, factor, ZERO)
    return [_Term(over_to(x.over), factor, body)]


def _gathered(over: Indices, factor: n.Expr) -> n.Expr:
    """`sum[over] factor`, and 0 where its mask leaves out all elements: its product is then 0."""
    total = sum_over(over, factor)
    mask = _mask_of(factor)
    if mask is None or not set(over) & set(mask.indices):
        return total
    return where(n.Binary("gt", sum_over(over, where(mask, ONE, ZERO)), ZERO), total, ZERO)


def _mask_of(factor: n.Expr) -> n.Expr | None:
    match factor:
        case n.Where(m, _, b) if b == ZERO:
            return m
        case n.Unary("neg", a) | n.Binary("div", a, _):
            return _mask_of(a)
    return None


def is_constant(node: n.Expr, known: dict[n.Expr, bool]) -> bool:
    """Whether a node is made of numbers and parameters only."""

    def find(x: n.Expr) -> bool:
        if isinstance(x, n.Unary | n.Binary | n.Clip | n.Where):
            return all(known[child] for child in x.children)
        return isinstance(x, n.Const | n.Param)

    return n.bottom_up(node, known, find)
