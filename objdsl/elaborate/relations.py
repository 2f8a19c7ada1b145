"""`sum[j != i] x` and `sum[s >= t] x`: an index with a relation to an outer one."""

from __future__ import annotations

from functools import reduce

import objdsl.ir.nodes as n
from objdsl.elaborate.brackets import check_keys, condition_of, keys_of, of_peers
from objdsl.elaborate.checks import at_tokens
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of, known_names
from objdsl.elaborate.scope import Frame, Letters
from objdsl.elaborate.wording import reduce_hint, shown
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.indices import MEANING, RESPONSE, union, written
from objdsl.ir.ops import REDUCTIONS
from objdsl.syntax import tree
from objdsl.syntax.language import meaning

# The most products of a sum that runs along the tokens: each costs a sum of its own.
_MOST_PRODUCTS = 32


def related(ctx: Context, op: str, node: tree.Reduction, relation: tree.Relation) -> n.Expr:
    """A reduction whose index has a relation to an outer one: `j != i`, `s >= t`."""
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
    keys = keys_of(ctx, op, binder)
    check_keys(ctx, binder, op, ("t",), keys)
    message = (
        f"inside `{op}[{s} {relation} t]` the running position is `{s}`, and the present one `t[t]`"
    )
    values = {**ctx.frames[-1].values, s: n.Position()}
    letters: Letters = {s: "running", "t": "present"}
    with ctx.frame(Frame(values, {"t": message}, letters)):
        x = at_tokens(ctx, build.real(ctx.expr(body)), body.span)
        mask = condition_of(ctx, binder)
    products = _products(x) if op in ("sum", "mean") else [(x, build.ONE)]
    paired = any(running.paired for running, _ in products or ())
    if not products or paired or (mask is not None and mask.paired):
        ctx.fail(
            "wrong-index", "every two tokens of a response would be compared here", body.span,
            help=f"a sum or a mean takes sums and products of values of `{s}` and of `t`, such as "
            f"`({s} - t[t]) * reward`; `togo(x, g)` discounts by the distance",
        )  # fmt: skip

    def each(y: n.Expr) -> n.Expr:
        if keys:
            return n.Peers("sum", ("t",), y, keys, relation, mask)
        return n.Scan(relation, y if mask is None else build.where(mask, y, build.ZERO))

    def total(y: n.Expr) -> n.Expr:
        if y is not x:
            return each(y)
        return reduce(build.add, (build.mul(g, each(f)) for f, g in products))

    match op:
        case "sum":
            return total(x)
        case "mean" if keys:
            means = (
                build.mul(g, n.Peers("mean", ("t",), f, keys, relation, mask)) for f, g in products
            )
            return reduce(build.add, means)
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


def _products(x: n.Expr) -> list[tuple[n.Expr, n.Expr]] | None:
    """A value of two tokens as a sum of products of one of the running token and one of the present
    one; None where it is no such sum."""
    if not x.paired:
        return [(x, build.ONE)]
    match x:
        case n.Present(y):
            return [(build.ONE, y)]
        case n.Unary("neg", a) if (parts := _products(a)) is not None:
            return _negated(parts)
        case n.Stop(a) if (parts := _products(a)) is not None:
            return [(build.stop(f), build.stop(g)) for f, g in parts]
        case n.Binary("add" | "sub" as op, a, b):
            first, second = _products(a), _products(b)
            if first is None or second is None:
                return None
            return first + (second if op == "add" else _negated(second))
        case n.Binary("pow", a, n.Const(2.0)):
            return _products(n.Binary("mul", a, a))
        case n.Binary("mul", a, b):
            left, right = _products(a), _products(b)
            if left is None or right is None or len(left) * len(right) > _MOST_PRODUCTS:
                return None
            return [(build.mul(f, h), build.mul(g, k)) for f, g in left for h, k in right]
        case n.Binary("div", a, n.Present(b)) if (parts := _products(a)) is not None:
            return [(f, build.div(g, b)) for f, g in parts]
        case n.Binary("div", a, b) if not b.paired and (parts := _products(a)) is not None:
            return [(build.div(f, b), g) for f, g in parts]
    return None


def _negated(products: list[tuple[n.Expr, n.Expr]]) -> list[tuple[n.Expr, n.Expr]]:
    return [(f, build.neg(g)) for f, g in products]


def _others(ctx: Context, op: str, node: tree.Reduction, relation: tree.Relation) -> n.Expr:
    """`mean[j != i] x`, and every other reduction that leaves out the response itself."""
    body, bound, binder = node.operands[0], relation.bound, node.binder
    over = ("i", *(index_of(ctx, index) for index in binder.indices))
    if relation.index.id != "i" or over not in (("i",), ("i", "t")):
        ctx.fail(
            "wrong-index", "`j != i` leaves one response out of a group", binder.span,
            help="`mean[j != i] x`, or `mean[j != i, t] x` over the tokens of the others",
        )  # fmt: skip
    keys = keys_of(ctx, op, binder)
    if n.Position() in keys:
        over = ("i", "t")
    check_keys(ctx, binder, op, over, keys)
    letters: Letters = {bound.id: "running", "i": "present"}
    hidden = {bound.id: f"`{bound.id}` has no value: `reward[{bound.id}]` is the reward of it"}
    with ctx.frame(Frame(ctx.frames[-1].values, hidden, letters)):
        x = build.real(ctx.expr(body))
        mask = condition_of(ctx, binder)
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
    return of_peers(op, n.Peers(REDUCTIONS[op], over, x, keys, "!=", mask))


def _reached(relation: str) -> n.Expr:
    """The number of `s` with `s R t`; 1 instead of 0, as the mean of nothing is 0."""
    t = n.Position()
    many = {
        "<=": t,
        "<": build.sub(t, build.ONE),
        ">=": build.add(build.sub(n.Length(), t), build.ONE),
        ">": build.sub(n.Length(), t),
    }[relation]
    return many if relation in ("<=", ">=") else n.Binary("max", many, build.ONE)
