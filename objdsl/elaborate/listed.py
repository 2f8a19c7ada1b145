"""Policies of which only the most probable entries are known: `policy teacher top 64`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import objdsl.ir.nodes as n
from objdsl.elaborate.context import Context
from objdsl.ir.bounds import bounds
from objdsl.ir.declarations import Policy
from objdsl.source import Span


def check_listed(ctx: Context, policies: Iterable[Policy], roots: Iterable[n.Expr]) -> None:
    """Records an error where a probability is read that may not be among the known ones."""
    most = {policy.name: policy.top for policy in policies if policy.top is not None}
    stack: list[tuple[n.Expr, frozenset[str], Span | None]] = [
        (root, frozenset(), root.span) for root in roots if most
    ]
    seen: set[tuple[n.Expr, frozenset[str]]] = set()
    while stack:
        node, known, span = stack.pop()
        if (node, known) in seen:
            continue
        seen.add((node, known))
        span = node.span or span
        match node:
            case n.LogDist(policy) if policy in most and policy not in known:
                mask = f"topk[v]({policy}[v], {most[policy]})"
                ctx.record(
                    "wrong-index",
                    f"only the {most[policy]} most probable entries of `{policy}` are known",
                    span, help=f"sum over these, `sum[v | {mask}] (...)`; all others together have "
                    f"`1 - sum[v | {mask}] {policy}[v]`",
                )  # fmt: skip
                return
            case n.Order("topk", _, _, at) if at and (teacher := _listed(node, most)) is not None:
                if bounds(at)[1] > most[teacher]:
                    ctx.record(
                        "outside-domain",
                        f"only {most[teacher]} entries of `{teacher}` are known", span,
                        help="a parameter declares how large it may be: "
                        f"`param k = {most[teacher]} in [1, {most[teacher]}]`",
                    )  # fmt: skip
                    return
            case n.Reduce(_, over, x, where) if "v" in over and where is not None:
                stack += [(where, known, span), (x, known | _chosen(where, most), span)]
            case n.Where(mask, a, b):
                stack += [(mask, known, span), (a, known | _chosen(mask, most), span)]
                stack.append((b, known, span))
            case n.Binary("and", a, b):
                stack.append((a, known | _chosen(b, most), span))
                stack.append((b, known | _chosen(a, most), span))
            case _:
                stack += [(child, known, span) for child in node.children]


def _listed(node: n.Order, most: Mapping[str, int]) -> str | None:
    """The policy of whose most probable entries a mask consists; None for other masks."""
    match node:
        case n.Order("topk", ("v",), n.Unary("exp", n.LogDist(policy)), _, None) if policy in most:
            return policy
    return None


def _chosen(mask: n.Expr, most: Mapping[str, int]) -> frozenset[str]:
    """The policies that are known at all entries of a mask, as far as its form shows."""
    match mask:
        case n.Binary("and", a, b):
            return _chosen(a, most) | _chosen(b, most)
        case n.Order("topk") if (policy := _listed(mask, most)) is not None:
            return frozenset({policy})
    return frozenset()
