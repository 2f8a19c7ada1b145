"""`mean[i] x`, `mean[t by turn] x`, `sum[j != i] x`, `sum[s >= t] x`, and those of order."""

from __future__ import annotations

from functools import reduce
from typing import NoReturn

import objdsl.ir.nodes as n
from objdsl.diagnostic import Edit, Fix, Label
from objdsl.elaborate.checks import as_mask, at_tokens
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of, is_own, known_names
from objdsl.elaborate.scope import Frame, Letters
from objdsl.elaborate.suggestions import no_reduction
from objdsl.elaborate.wording import index_name, reduce_hint, shown
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.indices import (
    MEANING,
    RESPONSE,
    SCALAR,
    TOKEN,
    VOCAB,
    Indices,
    over_to,
    remove,
    union,
    written,
)
from objdsl.ir.ops import COUNT, ORDER, REDUCTIONS, OrderRow
from objdsl.source import Span
from objdsl.syntax import tree
from objdsl.syntax.language import ORDERED, meaning

_OF_ORDER: dict[str, n.OrderOp] = {
    "top": "top", "topk": "topk", "nucleus": "nucleus", "trim": "trim", "rank": "rank",
}  # fmt: skip


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
    keys = _keys(ctx, op, binder)
    x, *masks = ctx.all(node.operands[0], *condition)
    x = build.real(x)
    mask = None
    if binder.condition is not None:
        mask = as_mask(ctx, masks[0], binder.condition.span)
    named = _kept_apart(_named(ctx, binder), keys)
    over = _over(ctx, binder, op, named, x, mask, node.operands[0])
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if keys:
        _check_keys(ctx, binder, op, over, keys)
        return _among(op, n.Peers(REDUCTIONS[op], over, x, keys, "", mask))
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
    keys = _keys(ctx, COUNT, binder)
    over = _over(ctx, binder, COUNT, _kept_apart(_named(ctx, binder), keys), build.ONE, mask, whole)
    if "p" in over and ctx.kept is not None:
        mask = ctx.kept if mask is None else build.both(ctx.kept, mask)
    if keys:
        _check_keys(ctx, binder, COUNT, over, keys)
        return n.Peers("sum", over, build.ONE, keys, "", mask)
    return build.count(over, mask)


def _kept_apart(named: Indices, keys: tuple[n.Expr, ...]) -> Indices:
    """`mean[i by t]` is `mean[i,t by t]`: of a response, one token at most stands at a position."""
    return ("i", "t") if named == ("i",) and n.Position() in keys else named


def _among(op: str, node: n.Peers) -> n.Expr:
    """A value of peers; a product of ratios stays in log space."""
    x = node.x
    if op == "prod" and isinstance(x, n.Unary) and x.op == "exp":
        return build.exp(node.like("sum", x.x, node.where))
    return node


# --- keys ----------------------------------------------------------------------------------------


def _keys(ctx: Context, op: str, binder: tree.Binder) -> tuple[n.Expr, ...]:
    """What peers share, data that tells elements apart."""
    values = tuple(build.real(value) for value in ctx.all(*binder.keys))
    for key, value in zip(binder.keys, values, strict=True):
        if value.paired:
            ctx.fail("wrong-index", "a key is a value of one element", key.span)
        if value.current:
            ctx.fail(
                "wrong-type",
                f"{shown(key)} changes with the policy that is trained, and a key is data",
                key.span, help="what belongs together is known before training",
            )  # fmt: skip
    return values


def _check_keys(
    ctx: Context, binder: tree.Binder, op: str, over: Indices, keys: tuple[n.Expr, ...]
) -> None:
    """Whether each key tells apart what a reduction runs over, and is of its elements."""
    for key, value in zip(binder.keys, keys, strict=True):
        inside = remove(value.indices, over_to(over))
        if inside:
            _inner_key(ctx, binder, op, over, key, inside)
        if not set(over) & set(value.indices):
            ctx.fail(
                "wrong-index",
                f"{shown(key)} is the same for all that `{op}[{written(over)}]` runs over",
                key.span, help="a key tells apart what stands before `by`: "
                f"it has {written(value.indices)}",
            )  # fmt: skip


def _inner_key(
    ctx: Context,
    binder: tree.Binder,
    op: str,
    over: Indices,
    key: tree.Expression,
    inside: Indices,
) -> NoReturn:
    """`mean[i by turn]`: what a response is when it has several turns is left open."""
    named = (*over, *inside)
    choices = []
    if named[-1] == "t" and binder.relation is None and not binder.condition:
        last = binder.indices[-1].span.end
        source = binder.span.source
        more = Edit(Span(source, last, last), "".join(f",{index}" for index in inside))
        text = key.span.text
        end = Span(source, binder.keys[-1].span.end, binder.keys[-1].span.end)
        choices = [
            Fix(
                f"`{op}[{written(named)} by {text} | first({text})]`: once for each response "
                "that reaches it",
                (more, Edit(end, f" | first({text})")),
            ),
            Fix(f"`{op}[{written(named)} by {text}]`: once for each of its tokens", (more,)),
        ]
    ctx.fail(
        "wrong-index",
        f"{shown(key)} varies along {written(inside)}, which "
        f"lie{'s' if len(inside) == 1 else ''} inside `{over[-1]}`",
        key.span, choices=tuple(choices),
        labels=(Label(binder.span, f"`{op}` runs over `{written(over)}`"),),
        help=f"name {'it' if len(inside) == 1 else 'them'} in the brackets too",
    )  # fmt: skip


# --- relations -----------------------------------------------------------------------------------


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
    if relation.op == "!=":
        return _others(ctx, op, node, relation)
    if relation.index.id != "t" or node.binder.indices:
        message = "a running reduction follows the tokens: `s >= t`"
        ctx.fail("wrong-index", message, node.binder.span)
    return _running(ctx, op, node, bound.id, relation.op)


def _running(
    ctx: Context, op: str, node: tree.Reduction, s: str, relation: n.ScanRelation
) -> n.Expr:
    """`sum[s >= t] x`, and `mean`, `prod`, `max` and `min` along the tokens."""
    (body,), binder = node.operands, node.binder
    keys = _keys(ctx, op, binder)
    _check_keys(ctx, binder, op, ("t",), keys)
    message = f"inside `{op}[{s} {relation} t]` the position is `{s}`, not `t`"
    values = {**ctx.frames[-1].values, s: n.Position()}
    letters: Letters = {s: "running", "t": "present"}
    with ctx.frame(Frame(values, {"t": message}, letters)):
        x = at_tokens(ctx, build.real(ctx.expr(body)), body.span)
        mask = _condition(ctx, binder)
    if x.paired or (mask is not None and mask.paired):
        ctx.fail(
            "wrong-index", "every two tokens of a response would be compared here", body.span,
            help="of responses it works: `mean[j != i] max(reward[j], reward[i])`",
        )  # fmt: skip

    def total(y: n.Expr) -> n.Expr:
        if keys:
            return n.Peers("sum", ("t",), y, keys, relation, mask)
        return n.Scan(relation, y if mask is None else build.where(mask, y, build.ZERO))

    match op:
        case "sum":
            return total(x)
        case "mean" if keys:
            return n.Peers("mean", ("t",), x, keys, relation, mask)
        case "mean" if mask is None:
            return build.div(total(x), _reached(relation))
        case "mean":
            return build.div(total(x), n.Binary("max", total(build.ONE), build.ONE))
        case "prod" if bounds(x)[0] >= 0:
            return build.exp(total(build.log(x)))
        case "prod":
            ctx.fail(
                "wrong-type",
                f"a running product is kept in log space, and {shown(body)} may be negative",
                body.span, help="a ratio never is, nor is `exp(x)` or `max(x, 0)`",
            )  # fmt: skip
        case "max" | "min" if x.live:
            ctx.fail(
                "wrong-type", f"a running `{op}` has no gradient, and {shown(body)} has one",
                body.span, help="`sg(x)` takes its value",
            )  # fmt: skip
        case "max" | "min":
            return n.Peers(REDUCTIONS[op], ("t",), x, keys, relation, mask)
    ctx.fail(
        "wrong-arguments", f"there is no running `{op}`", node.span,
        help="`sum`, `mean`, `prod`, `max` and `min` can run along the tokens",
    )  # fmt: skip


def _others(ctx: Context, op: str, node: tree.Reduction, relation: tree.Relation) -> n.Expr:
    """`mean[j != i] x`, and every other reduction that leaves the own response out."""
    body, bound, binder = node.operands[0], relation.bound, node.binder
    over = ("i", *(index_of(ctx, index) for index in binder.indices))
    if relation.index.id != "i" or over not in (("i",), ("i", "t")):
        ctx.fail(
            "wrong-index", "`j != i` leaves one response out of a group", binder.span,
            help="`mean[j != i] x`, or `mean[j != i, t] x` over the tokens of the others",
        )  # fmt: skip
    keys = _keys(ctx, op, binder)
    if n.Position() in keys:
        over = ("i", "t")
    _check_keys(ctx, binder, op, over, keys)
    letters: Letters = {bound.id: "running", "i": "present"}
    hidden = {bound.id: f"`{bound.id}` has no value: `reward[{bound.id}]` is the reward of it"}
    with ctx.frame(Frame(ctx.frames[-1].values, hidden, letters)):
        x = build.real(ctx.expr(body))
        mask = _condition(ctx, binder)
    reached = x.indices if mask is None else union(x.indices, mask.indices)
    if len(over) == 1 and reached != RESPONSE:
        ctx.fail(
            "wrong-index",
            f"{shown(body)} has the indices {written(reached)}, but `{bound.id} != i` runs over "
            "whole responses: p,i",
            body.span, help=reduce_hint(reached, RESPONSE),
        )  # fmt: skip
    at_tokens(ctx, x, body.span)
    paired = x.paired or (mask is not None and mask.paired)
    if len(over) == 2 and (paired or op not in ("sum", "mean")):
        ctx.fail(
            "wrong-arguments",
            "every token would be compared with every token of the others here",
            node.span, help="over tokens of others there are `sum` and `mean`; reduce each "
            f"response first: `{op}[{bound.id} != i] {op}[t] ...`",
        )  # fmt: skip
    return _among(op, n.Peers(REDUCTIONS[op], over, x, keys, "!=", mask))


def _condition(ctx: Context, binder: tree.Binder) -> n.Expr | None:
    if binder.condition is None:
        return None
    return as_mask(ctx, ctx.expr(binder.condition), binder.condition.span)


def _pick(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`pick[...](mask, fraction)`."""
    binder = node.binder
    if len(node.operands) != 2 or binder.relation or binder.condition or binder.keys:
        ctx.fail("wrong-arguments", "write `pick[p,i,t](mask, fraction)`", node.span)
    first, second = node.operands
    mask, fraction = ctx.all(first, second)
    _check_argument(ctx, ORDER["top"], fraction, second)
    value = as_mask(ctx, mask, first.span)
    over = _over(ctx, binder, "pick", _named(ctx, binder), value, None, first)
    if value.indices != TOKEN:
        ctx.fail("wrong-index", "`pick` chooses tokens", node.span)
    return n.Pick(over, value, fraction)


def _of_order(ctx: Context, node: tree.Reduction) -> n.Expr:
    """`top[...](x, fraction)`, `quantile[...](x, fraction)`, `rank[...] x` and their like."""
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
    over = _over(ctx, binder, op, _named(ctx, binder), x, mask, first)
    words = over == ("v",)
    if op == "nucleus" and not words:
        ctx.fail("wrong-index", "`nucleus` runs over the vocabulary, `[v]`", binder.span)
    if over[-1] == "v" and not (words and op in ("topk", "nucleus")):
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
    """A fraction or a limit is a number that is known."""
    if value.indices != SCALAR or value.current or value.boolean:
        ctx.fail("wrong-type", f"a {row.argument} is one number", place.span)
    if isinstance(value, n.Const) and not row.least <= value.value <= row.most:
        range_ = "is at least 0" if row.most > 1 else "lies between 0 and 1"
        ctx.fail("outside-domain", f"a {row.argument} {range_}", place.span)


def _named(ctx: Context, binder: tree.Binder) -> Indices:
    """The indices that stand in the brackets, in their order."""
    named = [index_of(ctx, index) for index in binder.indices]
    over = tuple(index for index in VOCAB if index in named)
    if len(over) != len(named):
        ctx.fail("wrong-index", "an index stands twice in the brackets", binder.span)
    if over[-1] == "v" and binder.keys:
        ctx.fail("wrong-index", "`by` groups prompts, responses and tokens", binder.span)
    return over


def _over(
    ctx: Context,
    binder: tree.Binder,
    op: str,
    over: Indices,
    x: n.Expr,
    mask: n.Expr | None,
    body: tree.Expression,
) -> Indices:
    """The indices of a binder, if `x` can be reduced over them."""
    text = shown(body)
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
