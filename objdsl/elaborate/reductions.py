"""`mean[i] x`, `sum[j != i] x`, `sum[s >= t] x`, `top[p,i,t](x, f)` and `median[i] x`."""

from __future__ import annotations

from functools import reduce

import objdsl.ir.nodes as n
from objdsl.diagnostic import Label
from objdsl.elaborate.checks import as_mask, at_tokens
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of, is_own, known_names
from objdsl.elaborate.scope import Frame
from objdsl.elaborate.suggestions import no_reduction
from objdsl.elaborate.wording import index_name, reduce_hint, shown
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.indices import (
    MEANING,
    RESPONSE,
    SCALAR,
    TOKEN,
    WORD,
    Indices,
    over_to,
    remove,
    union,
    written,
)
from objdsl.ir.ops import COUNT, ORDER, REDUCE, REDUCTIONS, OrderRow
from objdsl.syntax import tree
from objdsl.syntax.language import ORDERED, meaning

_OF_ORDER: dict[str, n.OrderOp] = {"top": "top", "trim": "trim", "rank": "rank"}


def reduction(ctx: Context, node: tree.Reduction) -> n.Expr:
    """The node of a reduction, whichever it is."""
    op, binder = node.operator.id, node.binder
    if op == "pick":
        return _pick(ctx, node)
    if op == "top" or (op in ORDERED and not is_own(ctx, op)):
        return _of_order(ctx, node)
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
        return _related(ctx, op, node, binder.relation)
    condition = () if binder.condition is None else (binder.condition,)
    x, *masks = ctx.all(node.operands[0], *condition)
    x = build.real(x)
    mask = None
    if binder.condition is not None:
        mask = as_mask(ctx, masks[0], binder.condition.span)
    over = _over(ctx, binder, op, x, mask, node.operands[0])
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if op == "prod" and isinstance(x, n.Unary) and x.op == "exp":
        return build.exp(n.Reduce("sum", over, x.x, mask))
    return n.Reduce(REDUCTIONS[op], over, x, mask)


def counted(ctx: Context, binder: tree.Binder, body: tree.Expression | None) -> n.Expr:
    """`count[i]`, `count[t | m]`, `count[t] m`: how many there are where the masks hold."""
    if binder.relation is not None:
        ctx.fail(
            "wrong-index", "`count` takes indices", binder.span,
            help="the others are `count[i] - 1`; up to a token, its position counts: `t`",
        )  # fmt: skip
    conditions = [part for part in (body, binder.condition) if part is not None]
    masks = [
        as_mask(ctx, mask, part.span)
        for mask, part in zip(ctx.all(*conditions), conditions, strict=True)
    ]
    mask = reduce(build.both, masks) if masks else None
    whole = conditions[0] if conditions else tree.Number(1.0, "1", binder.span)
    over = _over(ctx, binder, COUNT, build.ONE, mask, whole)
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    return build.count(over, mask)


def _related(ctx: Context, op: str, node: tree.Reduction, relation: tree.Relation) -> n.Expr:
    """A reduction whose index stands in a relation to one outside: `j != i`, `s >= t`."""
    bound = relation.bound
    if bound.id in MEANING and relation.index.id not in MEANING:
        mirrored = relation.op.translate(str.maketrans("<>", "><"))
        ctx.fail(
            "wrong-index", "the index that runs stands first", node.binder.span,
            help=f"write `{op}[{relation.index.id} {mirrored} {bound.id}]`",
        )  # fmt: skip
    index_of(ctx, relation.index)
    if bound.id in known_names(ctx) or bound.id in MEANING:
        ctx.fail(
            "reserved-name", f"`{bound.id}` already has a meaning: {meaning(bound.id)}",
            bound.span,
            help="the index that runs needs a name of its own: `j != i`, `s >= t`",
        )  # fmt: skip
    if node.binder.condition is not None:
        ctx.fail(
            "wrong-arguments", "a condition cannot stand after a relation",
            node.binder.condition.span, help="multiply by the mask instead",
        )  # fmt: skip
    if relation.op == "!=":
        return _others(ctx, op, node, relation)
    if relation.index.id != "t":
        message = "a running reduction follows the tokens: `s >= t`"
        ctx.fail("wrong-index", message, node.binder.span)
    return _running(ctx, op, node, bound.id, relation.op)


def _running(
    ctx: Context, op: str, node: tree.Reduction, s: str, relation: n.ScanRelation
) -> n.Expr:
    """`sum[s >= t] x`, and `mean` and `prod` along the tokens."""
    (body,) = node.operands
    message = f"inside `{op}[{s} {relation} t]` the position is `{s}`, not `t`"
    values = {**ctx.frames[-1].values, s: n.Position()}
    with ctx.frame(Frame(values, {"t": message})):
        x = at_tokens(ctx, build.real(ctx.expr(body)), body.span)
    match op:
        case "sum":
            return n.Scan(relation, x)
        case "mean":
            return build.div(n.Scan(relation, x), _reached(relation))
        case "prod" if bounds(x)[0] >= 0:
            return build.exp(n.Scan(relation, build.log(x)))
        case "prod":
            ctx.fail(
                "wrong-type",
                f"a running product is kept in log space, and {shown(body)} may be negative",
                body.span, help="a ratio never is, nor is `exp(x)` or `max(x, 0)`",
            )  # fmt: skip
    ctx.fail(
        "wrong-arguments", f"there is no running `{op}`", node.span,
        help="`sum`, `mean` and `prod` can run along the tokens",
    )  # fmt: skip


def _others(ctx: Context, op: str, node: tree.Reduction, relation: tree.Relation) -> n.Expr:
    """`sum[j != i] x` and `mean[j != i] x`."""
    body, bound = node.operands[0], relation.bound
    if relation.index.id != "i" or not REDUCE[REDUCTIONS[op]].others:
        ctx.fail(
            "wrong-index", "only `sum[j != i]` and `mean[j != i]` leave one out",
            node.binder.span,
        )  # fmt: skip
    with ctx.frame(Frame(ctx.frames[-1].values, {bound.id: "`j` has no value"})):
        x = build.real(ctx.expr(body))
    if x.indices != RESPONSE:
        ctx.fail(
            "wrong-index",
            f"{shown(body)} has the indices {written(x.indices)}, but `j != i` runs over "
            "whole responses: p,i",
            body.span, help=reduce_hint(x.indices, RESPONSE),
        )  # fmt: skip
    return n.Others("sum" if op == "sum" else "mean", x)


def _pick(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`pick[...](mask, fraction)`."""
    binder = node.binder
    if len(node.operands) != 2 or binder.relation or binder.condition:
        ctx.fail("wrong-arguments", "write `pick[p,i,t](mask, fraction)`", node.span)
    first, second = node.operands
    mask, fraction = ctx.all(first, second)
    _check_argument(ctx, ORDER["top"], fraction, second)
    value = as_mask(ctx, mask, first.span)
    over = _over(ctx, binder, "pick", value, None, first)
    if value.indices != TOKEN:
        ctx.fail("wrong-index", "`pick` chooses tokens", node.span)
    return n.Pick(over, value, fraction)


def _of_order(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`top[...](x, fraction)`, `quantile[...](x, fraction)`, `rank[...] x` and their like."""
    op, binder = node.operator.id, node.binder
    row = ORDER["share"] if op in ("median", "quantile") else ORDER[_OF_ORDER[op]]
    alone = op == "median" or not row.argument
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
    over = _over(ctx, binder, op, x, mask, first)
    if over[-1] == "v":
        ctx.fail("wrong-index", f"`{op}` does not run over the vocabulary", binder.span)
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
    """A fraction or a limit is a number that is known."""
    if value.indices != SCALAR or value.current or value.boolean:
        ctx.fail("wrong-type", f"a {row.argument} is one number", place.span)
    if isinstance(value, n.Const) and not row.least <= value.value <= row.most:
        ctx.fail("outside-domain", f"a {row.argument} lies between 0 and 1", place.span)


def _over(
    ctx: Context,
    binder: tree.Binder,
    op: str,
    x: n.Expr,
    mask: n.Expr | None,
    body: tree.Expression,
) -> Indices:
    """The indices of a binder, if `x` can be reduced over them."""
    named = [index_of(ctx, index) for index in binder.indices]
    over = tuple(index for index in WORD if index in named)
    text = shown(body)
    if len(over) != len(named):
        ctx.fail("wrong-index", "an index stands twice in the brackets", binder.span)
    carried = union(x.indices, mask.indices if mask is not None else SCALAR)
    # `sum[i] 1` is how many responses there are.
    counts = op in ("sum", COUNT) and mask is None and x == build.ONE and over[-1] != "v"
    if not counts and (not set(over) & set(carried) or over[-1] == "v" != carried[-1]):
        ctx.fail(
            "wrong-index",
            f"{text} has no {index_name(over[-1])} index: it has {written(carried)}",
            body.span,
            labels=(Label(binder.span, f"`{op}` runs over `{written(over)}`"),),
            help=f"did you mean `{op}[{carried[-1]}]`?" if carried else "it is one number",
        )  # fmt: skip
    whole = union(carried, over_to(over))
    left = remove(whole, over)
    if left != whole[: len(left)]:
        inner = [index for index in whole[whole.index(over[0]) :] if index not in over]
        reduced = " ".join(f"mean[{index}]" for index in inner)
        guilty, place = text, body.span
        if binder.condition is not None and carried != x.indices:
            guilty, place = shown(binder.condition), binder.condition.span
        ctx.fail(
            "wrong-index",
            f"{guilty} still varies along {written(tuple(inner))}, which "
            f"lie{'s' if len(inner) == 1 else ''} inside `{over[0]}`",
            place,
            labels=(Label(binder.span, f"`{op}` runs over `{written(over)}`"),),
            help=f"reduce it first, `{reduced} ...`, or name "
            f"{'it' if len(inner) == 1 else 'them'} in the brackets too",
        )  # fmt: skip
    return over


def _reached(relation: str) -> n.Expr:
    """How many `s` there are with `s R t`; 1 instead of none, as the mean of nothing is 0."""
    t = n.Position()
    many = {
        "<=": t,
        "<": build.sub(t, build.ONE),
        ">=": build.add(build.sub(n.Length(), t), build.ONE),
        ">": build.sub(n.Length(), t),
    }[relation]
    return many if relation in ("<=", ">=") else n.Binary("max", many, build.ONE)
