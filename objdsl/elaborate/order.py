"""`top[...]`, `quantile[...]`, `rank[...]` and the like: the order of elements; and `pick`."""

from __future__ import annotations

from typing import NoReturn

import objdsl.ir.nodes as n
from objdsl.elaborate.brackets import check_keys, keys_of, named_indices, reduced_indices
from objdsl.elaborate.checks import as_mask, refuse_learned
from objdsl.elaborate.context import Context
from objdsl.elaborate.shared_order import SharedOrder
from objdsl.elaborate.wording import shown
from objdsl.ir import build
from objdsl.ir.indices import RESPONSE, SCALAR, TOKEN, over_to, written
from objdsl.ir.ops import ORDER, ORDERS, OrderRow
from objdsl.syntax import tree

_ELEMENTS = {"p": "prompts", "i": "responses of a step", "t": "tokens"}


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
    row = ORDER["share"] if op in ("median", "quantile") else ORDER[ORDERS[op]]
    alone = op == "median" or not row.argument
    if binder.relation:
        _refuse_relation(ctx, op, node)
    if len(node.operands) != 2 - alone:
        operands = " x" if alone else f"(x, {row.argument})"
        brackets = binder.span.text.strip("[]")
        ctx.fail("wrong-arguments", f"write `{op}[{brackets}]{operands}`", node.span)
    first, *second = node.operands
    condition = () if binder.condition is None else (binder.condition,)
    x, *others = ctx.all(first, *second, *condition)
    argument = build.HALF if op == "median" else None
    if second:
        argument = others.pop(0)
        _check_argument(ctx, row, argument, second[0])
    mask = None if binder.condition is None else as_mask(ctx, others[0], binder.condition.span)
    x = build.real(x)
    if binder.keys:
        return _of_keys(ctx, op, node, x, argument, mask)
    over = reduced_indices(ctx, binder, op, named_indices(ctx, binder), x, mask, first)
    entries = over == ("v",)
    if op == "nucleus" and not entries:
        _only_over_entries(ctx, binder)
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
    return n.Order(ORDERS[op], over, x, argument, mask)


def _of_keys(
    ctx: Context,
    op: str,
    node: tree.Reduction,
    x: n.Expr,
    argument: n.Expr | None,
    mask: n.Expr | None,
) -> n.Expr:
    """`median[i by parent] x`: the order of the responses that share keys."""
    binder = node.binder
    keys = keys_of(ctx, op, binder)
    over = reduced_indices(ctx, binder, op, named_indices(ctx, binder), x, mask, node.operands[0])
    if op == "nucleus":
        _only_over_entries(ctx, binder)
    if over != ("i",) or n.Position() in keys:
        ctx.fail(
            "wrong-index", f"`{op}` orders by a key the responses to a prompt, "
            f"and every two {_ELEMENTS[over[-1]]} would be compared here",
            binder.span,
            help=f"the elements of one key are picked by a condition, `{op}[{written(over)} | "
            f"{binder.keys[0].span.text} == 1]`; `mean`, `max` and `min` take keys everywhere",
        )  # fmt: skip
    check_keys(ctx, binder, op, over, keys)
    if x.indices != RESPONSE:
        ctx.fail(
            "wrong-index",
            f"{shown(node.operands[0])} has the indices {written(x.indices)}; what responses are "
            "ordered by is a value of each",
            node.span,
        )  # fmt: skip
    order = SharedOrder(x, keys, mask)
    if op == "rank":
        return order.rank()
    assert argument is not None
    if op in ("median", "quantile"):
        return order.quantile(argument)
    return order.chosen(ORDERS[op], argument)


def _only_over_entries(ctx: Context, binder: tree.Binder) -> NoReturn:
    ctx.fail("wrong-index", "`nucleus` runs over the vocabulary, `[v]`", binder.span)


def _refuse_relation(ctx: Context, op: str, node: tree.Reduction) -> NoReturn:
    """`median[j != i] x`: there is no order of the others alone."""
    relation = node.binder.relation
    assert relation is not None
    first = node.operands[0].span.text
    match op:
        case _ if relation.op != "!=":
            message = f"`{op}` does not run along the tokens"
            help = "`mean`, `max` and `min` do: `max[s <= t] x`"
        case "rank":
            keys = "".join(f" by {key.span.text}" for key in node.binder.keys[:1])
            keys += "".join(f", {key.span.text}" for key in node.binder.keys[1:])
            message = "`rank` counts the smaller ones, to which no element itself belongs"
            help = f"write `rank[i{keys}] {first}`"
        case "median" | "quantile":
            message = f"`{op}` orders all elements at once, and each has different others"
            help = f"with the element itself it is `{op}[i]`; the others alone have " + (
                f"`mean[j != i] {first}`, `max` and `min`"
            )
        case "top" | "topk" | "nucleus" | "trim":
            message = f"`{op}` is a mask of all elements"
            help = f"it has no relation: `{op}[i]`"
        case _:
            raise AssertionError(f"{op} orders nothing")
    ctx.fail("wrong-arguments", message, node.span, help=help)


def _check_argument(ctx: Context, row: OrderRow, value: n.Expr, place: tree.Expression) -> None:
    """Checks that a fraction or a limit is a known number."""
    if value.indices != SCALAR or value.current or value.boolean:
        ctx.fail("wrong-type", f"a {row.argument} is one number", place.span)
    refuse_learned(ctx, value, f"a {row.argument} does not change in training", place.span)
    if isinstance(value, n.Const) and not row.least <= value.value <= row.most:
        range_ = "is at least 0" if row.most > 1 else "lies between 0 and 1"
        ctx.fail("outside-domain", f"a {row.argument} {range_}", place.span)
