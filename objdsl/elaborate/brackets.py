"""The brackets of a reduction: indices, keys after `by`, a condition after `|`."""

from __future__ import annotations

from typing import NoReturn

import objdsl.ir.nodes as n
from objdsl.diagnostic import Edit, Fix, Label
from objdsl.elaborate.checks import as_mask, refuse_learned
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of
from objdsl.elaborate.wording import index_name, shown
from objdsl.ir import build
from objdsl.ir.indices import SCALAR, VOCAB, Indices, over_to, remove, union, written
from objdsl.ir.ops import COUNT
from objdsl.source import Span
from objdsl.syntax import tree


def keys_of(ctx: Context, op: str, binder: tree.Binder) -> tuple[n.Expr, ...]:
    """The keys that peers share: data that distinguishes elements."""
    values = tuple(build.real(value) for value in ctx.all(*binder.keys))
    for key, value in zip(binder.keys, values, strict=True):
        if value.paired:
            ctx.fail("wrong-index", "a key is a value of one element", key.span)
        refuse_learned(ctx, value, "a key is data", key.span)
        if value.current:
            ctx.fail(
                "wrong-type",
                f"{shown(key)} changes with the policy that is trained, and a key is data",
                key.span, help="what belongs together is known before training",
            )  # fmt: skip
    return values


def check_keys(
    ctx: Context, binder: tree.Binder, op: str, over: Indices, keys: tuple[n.Expr, ...]
) -> None:
    """Checks that each key distinguishes elements that a reduction runs over, and is a value of
    these."""
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
    """`mean[i by turn]`: it is not clear how a response with several turns enters."""
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


def condition_of(ctx: Context, binder: tree.Binder) -> n.Expr | None:
    """The mask after `|`, if there is one."""
    if binder.condition is None:
        return None
    return as_mask(ctx, ctx.expr(binder.condition), binder.condition.span)


def named_indices(ctx: Context, binder: tree.Binder) -> Indices:
    """The indices in the brackets, in order."""
    named = [index_of(ctx, index) for index in binder.indices]
    over = tuple(index for index in VOCAB if index in named)
    if len(over) != len(named):
        ctx.fail("wrong-index", "an index stands twice in the brackets", binder.span)
    if over[-1] == "v" and binder.keys:
        ctx.fail("wrong-index", "`by` groups prompts, responses and tokens", binder.span)
    return over


def with_positions(named: Indices, keys: tuple[n.Expr, ...]) -> Indices:
    """`mean[i by t]` is `mean[i,t by t]`: a response has at most one token at each position."""
    return ("i", "t") if named == ("i",) and n.Position() in keys else named


def reduced_indices(
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
    # `sum[i] 1` is the number of responses.
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


def of_peers(op: str, node: n.Peers) -> n.Expr:
    """A value of peers; a product of ratios stays in log space."""
    x = node.x
    if op == "prod" and isinstance(x, n.Unary) and x.op == "exp":
        return build.exp(node.like("sum", x.x, node.where))
    return node
