"""From the tree of a file to its formula."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic
from objdsl.elaborate.checks import as_number
from objdsl.elaborate.collect import collect
from objdsl.elaborate.context import SHALLOWER, Context, Find
from objdsl.elaborate.expressions import node_of
from objdsl.elaborate.learned import check_gradients, learned_of
from objdsl.elaborate.listed import check_listed
from objdsl.elaborate.names import binding
from objdsl.elaborate.readings import judge_alone
from objdsl.elaborate.statements import (
    domain_of,
    given_column,
    goal_of,
    kept_prompts,
    parameter_of,
    policy_of,
    sampling_of,
)
from objdsl.elaborate.states import states_of
from objdsl.errors import ObjectiveError
from objdsl.ir import build
from objdsl.ir.columns import column_of
from objdsl.ir.declarations import Declared, Policy, Sampling
from objdsl.ir.nodes import Expr
from objdsl.ir.objective import Named, Objective, Unread, UnreadKind
from objdsl.syntax import tree

MAX_POLICIES = 32


def elaborate(file: tree.File, prelude: tree.File, find: Find) -> Objective:
    """The objective that a file describes.

    Args:
        file: the parsed file.
        prelude: the parsed `std.obj`, whose functions every file may use.
        find: looks up the file after `from`.

    Raises:
        ObjectiveError: with every error that was found.
    """
    try:
        return _objective(Context(prelude, find, node_of), file)
    except RecursionError:
        raise ObjectiveError([too_deep(file)]) from None


@dataclass(frozen=True)
class Spellings:
    """Rewritings of a text that do not change its meaning.

    Attributes:
        clear: where the reductions start whose readings all have the same value, with brackets or
            without (`sum[t] x / 4096`).
        aliases: the names that are read as others, `detach` as `sg`, by where they start.
    """

    clear: frozenset[int]
    aliases: Mapping[int, str]


def spellings(file: tree.File, prelude: tree.File, find: Find) -> Spellings:
    """The rewritings of a file; none for the parts that could not be judged because of errors."""
    ctx = Context(prelude, find, node_of)
    with suppress(ObjectiveError, RecursionError):
        _objective(ctx, file)
    clear = ctx.clear - ctx.doubtful
    return Spellings(
        frozenset(start for source, start in clear if source is file.source),
        {start: to for (source, start), to in ctx.aliases.items() if source is file.source},
    )


def undecided(file: tree.File, prelude: tree.File, find: Find) -> list[Diagnostic]:
    """The ambiguous reductions of a file that only has definitions, whatever the arguments of its
    functions are."""
    ctx = Context(prelude, find, node_of)
    with ctx.trial():
        collect(ctx, file)
        _declared(ctx)
        learned_of(ctx)
        states_of(ctx)
    for statement in file.statements:
        judge_alone(ctx, statement)
    return ctx.errors


def too_deep(file: tree.File) -> Diagnostic:
    """The error of a pass that exceeds the recursion limit: passes follow definitions by
    recursion."""
    message = "the definitions of this file are nested too deeply"
    where = file.statements[-1].span if file.statements else None
    return error("nested-too-deeply", message, where, help=SHALLOWER)


def _objective(ctx: Context, file: tree.File) -> Objective:
    scope, header = ctx.scope, collect(ctx, file)
    policies = _declared(ctx)
    learned = learned_of(ctx)
    states = states_of(ctx)
    sampling = _sampled(ctx)
    for name, let in scope.lets.items():
        if let.span.source is not ctx.prelude.source:
            with ctx.statement():
                binding(ctx, name, let.name.span)
    reports = []
    for name, report in scope.reports.items():
        with ctx.statement():
            value = as_number(ctx, ctx.expr(report.value), report.value.span, "report")
            reports.append(Named(name, value, report.span))
    goals = _goals(ctx)
    if "policy" not in scope.goals:
        where = header.span if header else (file.statements[-1].span if file.statements else None)
        ctx.record("no-goal", "nothing is maximised", where, help="add `maximize ...`")
    unread = _unread(ctx, file)
    for name, function in scope.defs.items():
        if name not in ctx.read and function.span.source is not ctx.prelude.source:
            judge_alone(ctx, function)
    values = [*goals.values(), *(named.value for named in (*reports, *ctx.order))]
    check_listed(ctx, policies, [x for x in (*values, ctx.kept) if x is not None])
    if goals.keys() == scope.goals.keys():
        check_gradients(ctx, learned, goals.values())
    if ctx.errors:
        raise ObjectiveError(ctx.errors)
    critic = goals.get("critic")
    if critic is not None and "critic_loss" not in scope.reports:
        reports.append(Named("critic_loss", critic))
    return Objective(
        name=header.name.id if header else "objective",
        goal=goals["policy"],
        critic=critic,
        reports=tuple(reports),
        bindings=tuple(ctx.order),
        calls=tuple(ctx.calls),
        params=tuple(ctx.params.values()),
        declared=tuple(
            Declared(column_of(ctx.givens[name]).name, domain_of(ctx, given.domain))
            for name, given in scope.givens.items()
            if given.domain is not None
        ),
        policies=policies,
        sampling=sampling,
        keep=ctx.kept,
        states=states,
        learned=learned,
        dual=goals.get("learn"),
        base=header.base.id if header and header.base else None,
        unread=unread,
        source=file.source,
    )


def _unread(ctx: Context, file: tree.File) -> tuple[Unread, ...]:
    """The declarations and definitions of the file that nothing reads; a base may have some for
    files that start from it."""
    scope = ctx.scope
    tables: tuple[
        tuple[
            UnreadKind,
            Mapping[str, tree.Param | tree.Given | tree.Policy | tree.Learn | tree.Let | tree.Def],
        ],
        ...,
    ] = (
        ("parameter", scope.params),
        ("column", {name: x for name, x in scope.givens.items() if x.role is None}),
        ("reward", {name: x for name, x in scope.givens.items() if x.role is not None}),
        ("policy", scope.policies),
        ("learned number", scope.learned),
        ("definition", scope.lets),
        ("function", scope.defs),
    )
    unread = [
        Unread(kind, name, statement.name.span)
        for kind, table in tables
        for name, statement in table.items()
        if name not in ctx.read and statement.span.source is file.source
    ]
    return tuple(sorted(unread, key=lambda x: x.span.start))


def _declared(ctx: Context) -> tuple[Policy, ...]:
    """The policies; parameters and columns are known to the context from here on."""
    scope = ctx.scope
    ctx.params = {name: parameter_of(ctx, param) for name, param in scope.params.items()}
    for name, given in scope.givens.items():
        with ctx.statement():
            ctx.givens[name] = given_column(ctx, given)
    policies = tuple(policy_of(ctx, policy) for policy in scope.policies.values())
    if len(policies) > MAX_POLICIES:
        ctx.record(
            "too-large", f"an objective has at most {MAX_POLICIES} policies of its own",
            [*scope.policies.values()][MAX_POLICIES].span,
        )  # fmt: skip
        raise ObjectiveError(ctx.errors)
    return policies


def _sampled(ctx: Context) -> Sampling:
    """How the responses are drawn; the context knows from here on which prompts are kept."""
    sampling = Sampling()
    for sample in ctx.scope.samples.values():
        with ctx.statement():
            sampling = sampling_of(ctx, sample)
    for keep in ctx.scope.keeps.values():
        with ctx.statement():
            ctx.kept = kept_prompts(ctx, keep)
    return sampling


def _goals(ctx: Context) -> dict[tree.Whose, Expr]:
    """What the policy maximises, and what the critic and learned numbers minimise."""
    goals: dict[tree.Whose, Expr] = {}
    for whose, statement in ctx.scope.goals.items():
        with ctx.statement():
            value = goal_of(ctx, statement)
            sense = "maximize" if whose == "policy" else "minimize"
            goals[whose] = value if statement.sense == sense else build.neg(value)
    return goals
