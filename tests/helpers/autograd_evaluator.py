"""A second interpreter of the maths IR, in torch, whose derivatives by autograd check the weights.

It works element by element like the reference, and shares nothing with the emitted code; every rule
is one torch function, so that its derivative is torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import objdsl.ir.nodes as n
from objdsl.ir import ops
from objdsl.ir.columns import column_of
from objdsl.ir.evaluate import RELATIONS, Batch, share
from objdsl.ir.indices import over_to
from objdsl.ir.ops import FUNCTIONS

UNARY = {
    "neg": torch.neg,
    "not": torch.logical_not,
    **{op: getattr(torch, op, None) or getattr(functional, op) for op in FUNCTIONS},
}
"""Torch's functions of these names: what another library says of an operator."""

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "min": torch.minimum,
    "max": torch.maximum,
    "comb": lambda n, k: number(math.comb(int(n), int(k))),
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
}
REDUCE = {
    "sum": torch.sum,
    "mean": torch.mean,
    "prod": torch.prod,
    "max": torch.amax,
    "min": torch.amin,
    "std": torch.std,
    "pstd": lambda xs: torch.std(xs, correction=0),
    "logsumexp": lambda xs: torch.logsumexp(xs, 0),
}
for table, rows in ((UNARY, ops.UNARY), (BINARY, ops.BINARY), (REDUCE, ops.REDUCE)):
    assert table.keys() == rows.keys(), table.keys() ^ rows.keys()
EMPTY = {"prod": 1.0, "logsumexp": -torch.inf}


def number(x: float) -> Tensor:
    return torch.tensor(float(x), dtype=torch.float64)


def derivative(
    root: n.Expr, batch: Batch, params: dict[str, float]
) -> tuple[float, dict[str, Any]]:
    """The value of a scalar, and its derivatives by the trained columns, ragged as in the batch."""
    leaves: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    values: dict[n.Expr, dict[tuple[int, ...], Tensor]] = {}
    for node in n.topological(root):
        if node.paired:
            continue
        values[node] = {
            at: _element(node, at, values, batch, params, leaves)
            for at in batch.addresses(node.indices)
        }
    total = values[root][()]
    names = sorted({name for name, _ in leaves})
    keys = list(leaves)
    if not total.requires_grad:  # every element was masked out
        return total.item(), {name: {} for name in names}
    gradients = torch.autograd.grad(
        total, [leaves[key] for key in keys], allow_unused=True, materialize_grads=True
    )
    slopes: dict[str, Any] = {name: {} for name in names}
    for (name, at), g in zip(keys, gradients, strict=True):
        slopes[name][(batch.row(at), *at[2:]) if at else ()] = g.item()
    return total.item(), slopes


def _of_two(
    x: n.Expr, running: tuple[int, ...], present: tuple[int, ...], of: Callable[..., Tensor]
) -> Tensor:
    """A value that reads the running element and the present one."""
    match x:
        case n.Present(y):
            return of(y, present)
        case _ if not x.paired:
            return of(x, running)
    parts = {child: _of_two(child, running, present, of) for child in x.children}
    return _element(x, (), {child: {(): part} for child, part in parts.items()}, None, {}, {})


def _element(
    node: n.Expr,
    at: tuple[int, ...],
    values: dict[n.Expr, Any],
    batch: Batch,
    params: dict[str, float],
    leaves: dict[tuple[str, tuple[int, ...]], Tensor],
) -> Tensor:
    def of(x: n.Expr, where: tuple[int, ...] = at) -> Tensor:
        return values[x][where[: len(x.indices)]]

    match node:
        case n.Const(value):
            return number(value)
        case n.Param(name):
            return number(params[name])
        case n.Column() | n.LogProb() | n.LogDist():
            name = column_of(node).name
            value = batch.read(name, at)
            if node.boolean:
                return torch.tensor(bool(value))
            x = number(value)
            if node.trained:
                leaves[name, at] = x.requires_grad_()
            return x
        case n.Length():
            return number(batch.lengths[batch.row(at)])
        case n.Position():
            return number(at[2] + 1)
        case n.Unary(op, x):
            return UNARY[op](of(x))
        case n.Binary(op, a, b):
            return BINARY[op](of(a), of(b))
        case n.Clip(x, lo, hi):
            return torch.clamp(of(x), of(lo), of(hi))
        case n.Where(m, a, b):
            return of(a) if of(m) else of(b)  # `torch.where` brings 0 times the other's slope
        case n.Stop(x):
            return of(x).detach()
        case n.Reduce(op, over, x, mask):
            inside = [
                of(x, other) * 1.0
                for other in batch.addresses(over_to(over), at)
                if mask is None or bool(of(mask, other))
            ]
            if not inside:
                return number(EMPTY.get(op, 0.0))
            xs = torch.stack(inside)
            return REDUCE[op](xs)
        case n.Peers(op, _, x, keys, relation, mask):
            axis = len(node.outer)
            peers = [
                other
                for other in batch.addresses(node.elements, at[:axis])
                if not relation or RELATIONS[relation](other[axis], at[axis])
                if all(bool(of(key, other) == of(key)) for key in keys)
                if mask is None or bool(_of_two(mask, other, at, of))
            ]
            inside = [_of_two(x, other, at, of) * 1.0 for other in peers]
            if not inside or (op == "std" and len(inside) == 1):
                return number(EMPTY.get(op, 0.0))
            xs = torch.stack(inside)
            return REDUCE[op](xs)
        case n.Scan(relation, x, decay):
            length = batch.lengths[batch.row(at)]
            factors = [
                number(1.0) if decay is None else of(decay, (*at[:2], u)) for u in range(length)
            ]
            terms = [
                torch.stack([number(1.0), *factors[min(s, at[2]) : max(s, at[2])]]).prod()
                * of(x, (*at[:2], s))
                for s in range(length)
                if RELATIONS[relation](s, at[2])
            ]
            return torch.stack(terms).sum() if terms else number(0)
        case n.Shift(x, by):
            there = at[2] + by
            inside = 0 <= there < batch.lengths[batch.row(at)]
            return of(x, (*at[:2], there)) if inside else number(0)
        case n.Quantile(over, x, fraction, mask):
            pool = _pool(node, at, batch, of)
            return _quantile(pool, of(fraction).item()) if len(pool) else number(0)
        case n.Order(op, over, x, argument, mask):
            if op != "rank" and mask is not None and not bool(of(mask)):
                return torch.tensor(False)
            pool = _pool(node, at, batch, of).detach().sort().values
            left = torch.searchsorted(pool, of(x).detach())
            right = torch.searchsorted(pool, of(x).detach(), right=True)
            match op:
                case "rank":
                    return number(1 + left.item())
                case "top":
                    return len(pool) - left <= math.floor(of(argument) * len(pool) + 1e-9)
                case "topk":
                    return len(pool) - left <= of(argument) + 1e-9
                case "nucleus":
                    return pool[right:].sum() < of(argument) - 1e-9
                case "trim":
                    return pool[:right].mean() <= of(argument) * (1 + 1e-9)
        case n.Pick(over, m, fraction):
            domain = list(batch.addresses(over_to(over), at[: over_to(over).index(over[0])]))
            hits = [o for o in domain if bool(of(m, o))]
            hits.sort(key=lambda o: batch.read("noise", o))
            return torch.tensor(at in hits[: share(of(fraction).item(), len(domain))])
    raise TypeError(node)


def _quantile(pool: Tensor, fraction: float) -> Tensor:
    """Like `torch.quantile`, except that equal values share the gradient, as in `amax`."""
    ordered = pool.detach().sort().values
    place = fraction * (len(pool) - 1)
    below, above = (pool[pool == ordered[end]].amax() for end in (int(place), math.ceil(place)))
    return torch.lerp(below, above, place - int(place))


def _pool(
    node: n.Quantile | n.Order, at: tuple[int, ...], batch: Batch, of: Callable[..., Tensor]
) -> Tensor:
    """The values that a node puts in order."""
    full = over_to(node.over)
    inside = [
        of(node.x, other) * 1.0
        for other in batch.addresses(full, at[: full.index(node.over[0])])
        if node.where is None or bool(of(node.where, other))
    ]
    return torch.stack(inside) if inside else torch.zeros(0, dtype=torch.float64)
