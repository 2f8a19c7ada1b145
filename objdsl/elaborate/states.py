"""States: their initial values, and their values after a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.diagnostic import Label
from objdsl.elaborate.checks import refuse_learned
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import index_of
from objdsl.elaborate.statements import check_column
from objdsl.elaborate.wording import reduce_hint
from objdsl.errors import ObjectiveError
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.columns import is_critic
from objdsl.ir.declarations import State
from objdsl.ir.indices import PROMPT, SCALAR, written
from objdsl.ir.interval import Interval
from objdsl.syntax import tree

MAX_STATES = 32
_ROUNDS = 4  # after which bounds that still grow are given up


def states_of(ctx: Context) -> tuple[State, ...]:
    """The states of a file; the context knows them from here on.

    They change after all prompts of a rollout, including those that `keep` drops. So this comes
    before the context knows about any `keep`, and other definitions that are read here are read
    again later.
    """
    statements = ctx.scope.states
    if len(statements) > MAX_STATES:
        ctx.record(
            "too-large", f"an objective has at most {MAX_STATES} states",
            [*statements.values()][MAX_STATES].span,
        )  # fmt: skip
        raise ObjectiveError(ctx.errors)
    for name, statement in statements.items():
        with ctx.statement():
            ctx.states[name] = _column(ctx, statement)
    with _apart(ctx), ctx.trial():
        ctx.states.update(_bounded([_state(ctx, statements[name]) for name in ctx.states]))
    states = []
    with _apart(ctx):
        for name in ctx.states:
            with ctx.statement():
                states.append(_state(ctx, statements[name]))
    return tuple(states)


@contextmanager
def _apart(ctx: Context) -> Iterator[None]:
    """Reads definitions that will be read again."""
    values, order, calls = {**ctx.values}, [*ctx.order], [*ctx.calls]
    try:
        yield
    finally:
        ctx.values, ctx.order, ctx.calls = values, order, calls


def _column(ctx: Context, statement: tree.State) -> n.Column:
    over = tuple(index_of(ctx, index) for index in statement.indices)
    if over not in (SCALAR, PROMPT):
        ctx.fail(
            "wrong-index",
            f"a state cannot have the indices {written(over)}: rollouts have prompts in common, "
            "and no responses",
            statement.span, help="use [p], or none for one number",
        )  # fmt: skip
    check_column(ctx, statement.name)
    return n.Column(statement.name.id, over, role="state")


def _bounded(states: Sequence[State]) -> dict[str, n.Column]:
    """The columns of states with the interval that no rollout leaves; if a few steps do not find
    one, everything that the next value can be."""

    def between(column: n.Column, values: Interval) -> n.Column:
        return replace(column, lower=values[0], upper=values[1])

    held = [bounds(state.start) for state in states]
    for _ in range(_ROUNDS):
        known: dict[n.Expr, n.Expr] = {
            state.column: between(state.column, values)
            for state, values in zip(states, held, strict=True)
        }
        after = [bounds(n.replaced(state.next, known)) for state in states]
        wider = [_wider(a, b) for a, b in zip(held, after, strict=True)]
        if wider == held:
            break
        held = wider
    else:
        held = [_wider(bounds(state.start), bounds(state.next)) for state in states]
    pairs = zip(states, held, strict=True)
    return {state.name: between(state.column, values) for state, values in pairs}


def _wider(a: Interval, b: Interval) -> Interval:
    """An interval that holds both, but for what rounding adds."""
    slack = 1e-9 * max(map(abs, a))
    return a[0] if b[0] >= a[0] - slack else b[0], a[1] if b[1] <= a[1] + slack else b[1]


def _state(ctx: Context, statement: tree.State) -> State:
    first, following = statement.first, statement.next
    start, after = map(build.real, ctx.all(first, following))
    column = ctx.states[statement.name.id]
    refuse_learned(ctx, start, "a state starts before training", first.span)
    for node in n.topological(start):
        known = isinstance(node, n.Const | n.Param | n.Unary | n.Binary | n.Clip | n.Where)
        data = isinstance(node, n.Column) and (node.over, node.role) == (PROMPT, "data")
        if not known and not data:
            ctx.fail(
                "wrong-type", "a state starts before there are responses", first.span,
                help="it starts from a number, a parameter, or a column of prompts: "
                "`given prior[p]`",
            )  # fmt: skip
    for node in n.topological(after):
        if isinstance(node, n.Pick):
            ctx.fail("wrong-type", "a state changes without chance", node.span or following.span)
    refuse_learned(ctx, after, "a state changes by what was sampled", following.span)
    if after.current:
        places = [node for node in n.topological(after) if node.current and node.span]
        before = "V_old" if any(map(is_critic, n.topological(places[0]))) else "old"
        ctx.fail(
            "wrong-type", "a state changes by what was sampled, before the policy learns from it",
            places[0].span, labels=(Label(following.span, "read here"),),
            help=f"as it was when responses were sampled, it is `{before}`",
        )  # fmt: skip
    for value, place in ((start, first), (after, following)):
        if len(value.indices) > len(column.over):
            what = f"for each of {written(column.over)}" if column.over else "one number"
            ctx.fail(
                "wrong-index",
                f"`{column.name}` is {what}, but this has the indices {written(value.indices)}",
                place.span, help=reduce_hint(value.indices, column.over),
            )  # fmt: skip
    return State(column, start, after, statement.span)
