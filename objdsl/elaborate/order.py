"""`top[...]`, `quantile[...]`, `rank[...]` and the like: the order of elements; and `pick`."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.elaborate.brackets import named_indices, reduced_indices
from objdsl.elaborate.checks import as_mask
from objdsl.elaborate.context import Context
from objdsl.elaborate.wording import shown
from objdsl.ir import build
from objdsl.ir.indices import SCALAR, TOKEN, over_to, written
from objdsl.ir.ops import ORDER, OrderRow
from objdsl.syntax import tree

_OF_ORDER: dict[str, n.OrderOp] = {
    "top": "top", "topk": "topk", "nucleus": "nucleus", "trim": "trim", "rank": "rank",
}  # fmt: skip


def pick(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`pick[...](mask, fraction)`."""
    binder = node.binder
    if len(node.operands) != 2 or binder.relation or binder.condition or binder.keys:
        ctx.fail("wrong-arguments", "write `pick[p,i,t](mask, fraction)`", node.span)
    first, second = node.operands
    mask, fraction = ctx.all(first, second)
    _check_argument(ctx, ORDER["top"], fraction, second)
    value = as_mask(ctx, mask, first.span)
    over = reduced_indices(ctx, binder, "pick", named_indices(ctx, binder), value, None, first)
    if value.indices != TOKEN:
        ctx.fail("wrong-index", "`pick` chooses tokens", node.span)
    return n.Pick(over, value, fraction)


def of_order(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`top[...](x, fraction)`, `quantile[...](x, fraction)`, `rank[...] x` and the like."""
    op, binder = node.operator.id, node.binder
    row = ORDER["share"] if op in ("median", "quantile") else ORDER[_OF_ORDER[op]]
    alone = op == "median" or not row.argument
    if binder.keys:
        ctx.fail(
            "wrong-arguments", f"`{op}` orders all elements, and takes no keys", binder.span,
            help=f"the elements of a key alone are picked by a condition: `{op}[i | parent == 1]`",
        )  # fmt: skip
    if len(node.operands) != 2 - alone or binder.relation:
        operands = " x" if alone else f"(x, {row.argument})"
        ctx.fail(
            "wrong-arguments", f"write `{op}[{binder.span.text.strip('[]')}]{operands}`"
            if not binder.relation else f"`{op}` takes indices, and no relation",
            node.span,
        )  # fmt: skip
    first, *second = node.operands
    condition = () if binder.condition is None else (binder.condition,)
    x, *others = ctx.all(first, *second, *condition)
    argument = build.HALF if op == "median" else None
    if second:
        argument = others.pop(0)
        _check_argument(ctx, row, argument, second[0])
    mask = None if binder.condition is None else as_mask(ctx, others[0], binder.condition.span)
    x = build.real(x)
    over = reduced_indices(ctx, binder, op, named_indices(ctx, binder), x, mask, first)
    entries = over == ("v",)
    if op == "nucleus" and not entries:
        ctx.fail("wrong-index", "`nucleus` runs over the vocabulary, `[v]`", binder.span)
    if over[-1] == "v" and not (entries and op in ("topk", "nucleus")):
        ctx.fail(
            "wrong-index", f"`{op}` does not run over the vocabulary", binder.span,
            help="`topk[v](x, 20)` and `nucleus[v](x, 0.95)` do",
        )  # fmt: skip
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if op in ("median", "quantile"):
        assert argument is not None
        return n.Quantile(over, x, argument, mask)
    if x.indices != over_to(over):
        ctx.fail(
            "wrong-index",
            f"{shown(first)} has the indices {written(x.indices)}; `{op}` tells apart elements "
            "of these, so the last one stands in the brackets",
            node.span,
        )  # fmt: skip
    return n.Order(_OF_ORDER[op], over, x, argument, mask)


def _check_argument(ctx: Context, row: OrderRow, value: n.Expr, place: tree.Expression) -> None:
    """Checks that a fraction or a limit is a known number."""
    if value.indices != SCALAR or value.current or value.boolean:
        ctx.fail("wrong-type", f"a {row.argument} is one number", place.span)
    if isinstance(value, n.Const) and not row.least <= value.value <= row.most:
        range_ = "is at least 0" if row.most > 1 else "lies between 0 and 1"
        ctx.fail("outside-domain", f"a {row.argument} {range_}", place.span)
