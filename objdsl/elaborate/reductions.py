"""`mean[i] x`, `mean[t by turn] x`, `count[t | m]`: the node of each reduction."""

from __future__ import annotations

from functools import reduce

import objdsl.ir.nodes as n
from objdsl.elaborate.brackets import (
    check_keys,
    keys_of,
    named_indices,
    of_peers,
    reduced_indices,
    with_positions,
)
from objdsl.elaborate.checks import as_mask
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import is_own
from objdsl.elaborate.order import of_order, pick
from objdsl.elaborate.relations import related
from objdsl.elaborate.suggestions import no_reduction
from objdsl.ir import build
from objdsl.ir.ops import COUNT, REDUCTIONS
from objdsl.syntax import tree
from objdsl.syntax.language import ORDERED


def reduction(ctx: Context, node: tree.Reduction) -> n.Expr:
    """The node of a reduction, whichever it is."""
    op, binder = node.operator.id, node.binder
    if op == "pick":
        return pick(ctx, node)
    if op == "top" or (op in ORDERED and not is_own(ctx, op)):
        return of_order(ctx, node)
    if op == COUNT and not is_own(ctx, op):
        if len(node.operands) != 1:
            ctx.fail("wrong-arguments", "`count` counts one mask", node.span)
        return counted(ctx, binder, node.operands[0])
    if op not in REDUCTIONS or is_own(ctx, op):
        with ctx.then(*(node.operands if binder.relation is None else ())):
            no_reduction(ctx, node.operator)
    if len(node.operands) != 1:
        ctx.fail("wrong-arguments", f"`{op}` works on one value", node.span)
    if binder.relation is not None:
        return related(ctx, op, node, binder.relation)
    condition = () if binder.condition is None else (binder.condition,)
    keys = keys_of(ctx, op, binder)
    x, *masks = ctx.all(node.operands[0], *condition)
    x = build.real(x)
    mask = None
    if binder.condition is not None:
        mask = as_mask(ctx, masks[0], binder.condition.span)
    named = with_positions(named_indices(ctx, binder), keys)
    over = reduced_indices(ctx, binder, op, named, x, mask, node.operands[0])
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if keys:
        check_keys(ctx, binder, op, over, keys)
        return of_peers(op, n.Peers(REDUCTIONS[op], over, x, keys, "", mask))
    if op == "prod" and isinstance(x, n.Unary) and x.op == "exp":
        return build.exp(n.Reduce("sum", over, x.x, mask))
    return n.Reduce(REDUCTIONS[op], over, x, mask)


def counted(ctx: Context, binder: tree.Binder, body: tree.Expression | None) -> n.Expr:
    """`count[i]`, `count[t | m]`, `count[t] m`: the number of elements where the masks hold."""
    if binder.relation is not None:
        ctx.fail(
            "wrong-index", "`count` takes indices", binder.span,
            help="the others are `count[i] - 1`, those in a mask `sum[j != i] m`; up to a token, "
            "its position counts: `t`",
        )  # fmt: skip
    conditions = [part for part in (body, binder.condition) if part is not None]
    masks = [
        as_mask(ctx, mask, part.span)
        for mask, part in zip(ctx.all(*conditions), conditions, strict=True)
    ]
    mask = reduce(build.both, masks) if masks else None
    whole = conditions[0] if conditions else tree.Number(1.0, "1", binder.span)
    keys = keys_of(ctx, COUNT, binder)
    named = with_positions(named_indices(ctx, binder), keys)
    over = reduced_indices(ctx, binder, COUNT, named, build.ONE, mask, whole)
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if keys:
        check_keys(ctx, binder, COUNT, over, keys)
        return n.Peers("sum", over, build.ONE, keys, "", mask)
    return build.count(over, mask)
