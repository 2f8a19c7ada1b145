"""Reductions, and other operations along an index, applied term by term to a sum of products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeGuard

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.arithmetic import logarithm, power
from objdsl.analysis.algebra.branches import is_last, mask_formula
from objdsl.analysis.algebra.expansion import Expansion
from objdsl.analysis.algebra.sums import Sum, atom, bases_of, number, product
from objdsl.ir.build import ONE, ZERO, exp
from objdsl.ir.indices import Index, Indices

GROUP: n.Expr = n.Reduce("sum", ("i",), ONE)
"""The number of responses to a prompt."""
PROMPTS: n.Expr = n.Reduce("sum", ("p",), ONE)
"""The number of prompts of a step."""
RESPONSES: n.Expr = n.Reduce("sum", ("p", "i"), ONE)
"""The number of responses of a step."""

_SIZES: dict[Index, n.Expr] = {"t": n.Length(), "i": GROUP, "p": PROMPTS}


def reduction(expand: Expansion, node: n.Reduce) -> Sum:
    """Sums and means term by term; other reductions as factors."""
    x = expand(node.x)
    mask = None if node.where is None else expand(node.where)
    match node.op:
        case "sum":
            return _sum(expand, node.over, x if mask is None else mask * x, node)
        case "mean":
            ones = number(1) if mask is None else mask
            total = _sum(expand, node.over, ones * x, node)
            return total * power(expand, _sum(expand, node.over, ones, node), -1.0, node)
        case "logsumexp":
            over = n.Reduce("sum", node.over, exp(node.x), node.where, span=node.span)
            return logarithm(expand, expand(over), node)
    if node.op != "prod" and mask is None:
        return _dispersion(expand, node, x)
    where = None if mask is None else mask_formula(expand, node.where)
    return expand.atom(n.Reduce(node.op, node.over, x.expr(), where), node)


def quantile(expand: Expansion, node: n.Quantile) -> Sum:
    """A factor, plus the terms that are the same for all elements, which shift it."""
    x, over, at = expand(node.x), set(node.over), expand(node.at).expr()
    if node.where is not None:
        where = mask_formula(expand, node.where)
        return expand.atom(n.Quantile(node.over, x.expr(), at, where), node)
    moving = {f: c for f, c in x.terms.items() if any(over & set(b.indices) for b, _ in f)}
    fixed = Sum({f: c for f, c in x.terms.items() if f not in moving})
    if not moving:
        return fixed
    return fixed + expand.atom(n.Quantile(node.over, Sum(moving).expr(), at), node)


def _dispersion(expand: Expansion, node: n.Reduce, x: Sum) -> Sum:
    """An extremum or a standard deviation: constants shift the former, and cancel in the latter."""
    over = set(node.over)
    moving = {f: c for f, c in x.terms.items() if any(over & set(b.indices) for b, _ in f)}
    fixed = Sum({f: c for f, c in x.terms.items() if f not in moving})
    rest = Sum() if node.op in ("std", "pstd") else fixed
    if not moving:
        return rest
    if node.op == "max" and "t" in over and moving == atom(n.Position()).terms:
        return rest + expand.atom(n.Length(), node)
    return rest + expand.atom(n.Reduce(node.op, node.over, Sum(moving).expr()), node)


def _sum(expand: Expansion, over: Indices, x: Sum, node: n.Expr) -> Sum:
    for index in reversed(over):
        x = linear(expand, x, index, partial(_total_along, index), node)
    return x


def peers(expand: Expansion, node: n.Peers) -> Sum:
    """Sums and means over peers term by term; other reductions, and masks of two elements, as
    factors."""
    linear_in_x = node.op in ("sum", "mean")
    if (node.x.paired and not linear_in_x) or (node.where is not None and node.where.paired):
        return expand.atom(node, node)
    keys = tuple(expand(key).expr() for key in node.keys)
    x = expand(node.x)
    mask = number(1) if node.where is None else expand(node.where)
    everywhere = mask.number == 1
    total = n.Peers("sum", node.over, ONE, keys, node.relation)
    match node.op:
        case "sum":
            return _over_peers(expand, total, x if everywhere else mask * x, node)
        case "mean" if everywhere:
            return _over_peers(expand, replace(total, op="mean"), x, node)
        case "mean":
            count = _over_peers(expand, total, mask, node)
            return _over_peers(expand, total, mask * x, node) * power(expand, count, -1.0, node)
    if not x.terms and node.op != "prod":
        return Sum()
    where = None if everywhere else mask_formula(expand, node.where)
    return expand.atom(replace(total, op=node.op, x=x.expr(), where=where), node)


def _over_peers(expand: Expansion, total: n.Peers, x: Sum, node: n.Expr) -> Sum:
    """A sum or a mean over peers, term by term."""
    op, rest = total.op, atom(GROUP) - number(1)

    def others(f: n.Expr) -> Sum:
        if f == ONE:
            return number(1) if op == "mean" else rest
        if _averages_others(f):  # each of the others has this element among its own others
            share = power(expand, rest, -1.0, node) if op == "mean" else rest
            itself = expand(f.x) * share if op == f.op else expand(f.x)
            left = (rest - number(1)) * atom(f)
            return itself + (left * share if op == "mean" else left)
        return atom(replace(total, x=f))

    def alike(f: n.Expr) -> Sum:
        if op == "mean" and f == ONE and total.relation in ("", "<=", ">="):
            return number(1)
        if op == "sum" and not total.relation and _is_first(f, total):
            return number(1)
        if op == "mean" and not total.relation:
            summed = replace(total, op="sum", x=f)
            return atom(summed) * atom(replace(summed, x=ONE), -1.0)
        return atom(replace(total, x=f))

    result = Sum()
    for factors, c in x.terms.items():
        shared = frozenset((b, e) for b, e in factors if _shared(b, total))
        present = frozenset((b.x, e) if isinstance(b, n.Present) else (b, e) for b, e in shared)
        running = Sum({factors - shared: c})
        apply = others if total.others else alike
        result += linear(expand, running, total.over[0], apply, node) * Sum({present: 1.0})
    return result


def _shared(base: n.Expr, total: n.Peers) -> bool:
    """Whether a value is the same for an element and all of its peers: a key, a statistic of the
    elements that share it, or a function of these."""
    along, stack, seen = set(total.over), [base], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node in seen or node in total.keys or along.isdisjoint(node.indices):
            continue
        seen.add(node)
        match node:
            case n.Present():
                continue
            case n.Peers(_, _, _, keys, "" | "!=" as relation) if keys:
                if not along.isdisjoint((*node.outer, node.over[0]) if relation else node.outer):
                    return False
                stack += keys
            case n.Unary() | n.Binary() | n.Clip() | n.Where() | n.Stop():
                stack += node.children
            case _:
                return False
    return True


def _averages_others(f: n.Expr) -> TypeGuard[n.Peers]:
    return isinstance(f, n.Peers) and f.others and f.op in ("sum", "mean")


def _is_first(f: n.Expr, total: n.Peers) -> bool:
    """Whether it is the mask of the first of the elements that share keys, of which there is
    one."""
    match f:
        case n.Where(mask, unit, zero) if unit == ONE and zero == ZERO:
            return _is_first(mask, total)
        case n.Binary("eq", n.Position(), n.Peers("min", over, n.Position(), keys, "", None)):
            return (over, keys) == (total.over, total.keys)
    return False


def scan(expand: Expansion, node: n.Scan) -> Sum:
    """A sum over the tokens before or after each, term by term."""
    decay = number(1) if node.decay is None else expand(node.decay)
    rate = decay.number

    def scanned(f: n.Expr) -> Sum:
        if rate == 0 and node.relation in (">=", "<="):
            return expand(f)
        if node.relation == ">=" and rate is not None:
            if rate == 1 and is_last(f):
                return number(1)
            if isinstance(f, n.Shift) and f.by == 1:
                # sum[s >= t] g^(s-t) x_(s+1) is what the sum of x has after its first term.
                return (scanned(f.x) - expand(f.x)).scaled(1 / rate)
        if rate == 1 and f == ONE and node.relation in ("<", "<="):
            return atom(n.Position()) - number(float(node.relation == "<"))
        keep = None if rate == 1 else decay.expr()
        return atom(n.Scan(node.relation, f, keep))

    return linear(expand, expand(node.x), "t", scanned, node)


def linear(
    expand: Expansion, x: Sum, index: Index, apply: Callable[[n.Expr], Sum], node: n.Expr
) -> Sum:
    """A linear operation along an index; factors that do not vary along it are pulled out."""
    result = Sum()
    for factors, c in x.terms.items():
        fixed = frozenset((base, e) for base, e in factors if index not in base.indices)
        applied = apply(product(factors - fixed, 1.0))
        for base in bases_of(applied):
            expand.note(base, node)
        result = result + applied * Sum({fixed: c})
    return result


def _total_along(index: Index, f: n.Expr) -> Sum:
    """`sum[index] f`, where all factors of the product `f` vary along the index."""
    if index == "v" and isinstance(f, n.Unary) and f.op == "exp" and isinstance(f.x, n.LogDist):
        return number(1)
    if index == "t" and is_last(f):
        return number(1)
    if f == ONE and index in _SIZES:
        return atom(_SIZES[index])
    if index == "p" and f == GROUP:
        return atom(RESPONSES)
    if index == "i" and _averages_others(f):  # each element is among the others of all the others
        whole = atom(n.Reduce("sum", ("i",), f.x))
        return whole if f.op == "mean" else whole * (atom(GROUP) - number(1))
    return atom(n.Reduce("sum", (index,), f))
