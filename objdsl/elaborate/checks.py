"""The checks that a place makes of a value."""

from __future__ import annotations

from objdsl.elaborate.context import Context
from objdsl.elaborate.wording import reduce_hint
from objdsl.ir import build
from objdsl.ir.indices import SCALAR, VOCAB, written
from objdsl.ir.nodes import Binary, Column, Expr, learned_in
from objdsl.source import Span


def as_mask(ctx: Context, value: Expr, span: Span) -> Expr:
    """A condition; a column counts as true where it is not 0."""
    if value.boolean:
        return value
    if isinstance(value, Column) and not value.trained:
        return Binary("ne", value, build.ZERO)
    ctx.fail(
        "wrong-type", "a condition is expected here, and this is a number", span,
        help="compare it with something: `x > 0`",
    )  # fmt: skip


def as_number(ctx: Context, value: Expr, span: Span, what: str) -> Expr:
    """One number for the whole step."""
    value = build.real(value)
    if value.indices != SCALAR:
        ctx.fail(
            "not-a-number",
            f"`{what}` takes one number, but this has a value for each of "
            f"{written(value.indices)}",
            span, help=reduce_hint(value.indices, SCALAR),
        )  # fmt: skip
    return value


def refuse_learned(ctx: Context, x: Expr, what: str, span: Span) -> None:
    """Refuses a number that is learned where none is differentiated, or where nothing changes."""
    for name in learned_in(x):
        ctx.fail(
            "wrong-type", f"{what}, and `{name}` is learned", span,
            help=f"nor is its value as it is, `sg({name})`; a number that stays is a `param`",
        )  # fmt: skip


def at_tokens(ctx: Context, x: Expr, span: Span) -> Expr:
    """A value that varies with tokens at most, and not over the vocabulary."""
    if x.indices != VOCAB:
        return x
    ctx.fail("wrong-index", "this has a value for each entry `v` of the vocabulary", span)
