"""Numbers that the optimizer trains beside the policy: `learn beta = 0.1 in [0, inf)`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import objdsl.ir.nodes as n
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of
from objdsl.elaborate.statements import check_column, domain_of
from objdsl.ir.declarations import Learned
from objdsl.ir.indices import written
from objdsl.syntax import tree

MAX_LEARNED = 32
TAKEN = (
    "hidden", "weight", "tokens", "bias", "temperature", "softcap", "kept", "schedule", "kernels",
    "precision", "sequence_parallel", "spread", "budget",
)  # fmt: skip
"""What a learned number cannot be called: arguments of `Objective.fused` that stand beside it."""


def learned_of(ctx: Context) -> tuple[Learned, ...]:
    """The learned numbers of a file; the context knows them from here on."""
    statements = ctx.scope.learned
    if len(statements) > MAX_LEARNED:
        ctx.record(
            "too-large", f"an objective has at most {MAX_LEARNED} learned numbers",
            [*statements.values()][MAX_LEARNED].span,
        )  # fmt: skip
    learned = []
    for name, statement in statements.items():
        with ctx.statement():
            number = _learned(ctx, statement)
            ctx.learned[name] = number.column
            learned.append(number)
    return tuple(learned)


def _learned(ctx: Context, statement: tree.Learn) -> Learned:
    name = statement.name.id
    if statement.indices:
        over = tuple(index_of(ctx, index) for index in statement.indices)
        ctx.fail(
            "wrong-index",
            f"`{name}` cannot have the indices {written(over)}: what is learned beside the policy "
            "is one number, for prompts that were never sampled, too",
            statement.indices[0].span.to(statement.indices[-1].span),
            help=f"a number for each prompt is a state: `state {name}[p] = "
            f"{statement.start_text} next ...`",
        )  # fmt: skip
    check_column(ctx, statement.name)
    if name in TAKEN:
        ctx.fail(
            "reserved-name", f"a learned number cannot be called `{name}`", statement.name.span,
            help=f"`{name}=` is already an argument of `Objective.fused`; choose a different name",
        )  # fmt: skip
    if isinstance(statement.domain, tree.Choice):
        ctx.fail(
            "wrong-type", "steps of the optimizer lead between the values of {...}",
            statement.domain.span, help="what is learned lies in an interval, as in `[0, 1]`",
        )  # fmt: skip
    domain = domain_of(ctx, statement.domain)
    start = statement.start
    if not math.isfinite(start):
        ctx.fail("outside-domain", f"`{name}` starts from a finite number", statement.span)
    if not domain.empty and not domain.holds(start):
        ctx.record(
            "outside-domain",
            f"the start {statement.start_text} of `{name}` is outside {domain}", statement.span,
        )  # fmt: skip
    if domain.lower == domain.upper:
        ctx.record(
            "empty-domain", f"`{name}` cannot leave {domain}: there is nothing to learn",
            statement.span, help=f"a number that stays is `param {name} = {statement.start_text}`",
        )  # fmt: skip
    column = n.Column(
        name, (), trained=True, lower=domain.lower, upper=domain.upper, role="learned"
    )
    return Learned(column, start, domain, statement.span)


def check_gradients(ctx: Context, learned: Iterable[Learned], goals: Collection[n.Expr]) -> None:
    """A learned number that something reads is reached by a gradient."""
    reached = {leaf for goal in goals for leaf in n.live_leaves(goal)}
    for number in learned:
        if number.name not in ctx.read or number.column in reached:
            continue
        help = "every path from what is maximized goes through `sg`, a comparison or a report"
        if not any(number.name in n.learned_in(goal) for goal in goals):
            help = "what is maximized does not read it, nor does a `minimize learn ...`"
        ctx.record(
            "no-gradient", f"no gradient reaches `{number.name}`: it would stay at its start",
            number.span, help=f"{help}; a number that stays is `param {number.name} = ...`",
        )  # fmt: skip
