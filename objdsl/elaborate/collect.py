"""The statements of a file, of what it starts `from` and of the prelude, into the scope."""

from __future__ import annotations

from objdsl.diagnostic import Label
from objdsl.elaborate.context import Context
from objdsl.elaborate.readings import note
from objdsl.errors import ObjectiveError
from objdsl.ir.declarations import BUILT_IN_POLICIES
from objdsl.ir.indices import MEANING
from objdsl.ir.ops import REDUCTIONS
from objdsl.source import Span
from objdsl.syntax import tree
from objdsl.syntax.language import COLUMNS, FUNCTIONS, SOFT, SUBSETS, meaning


def collect(ctx: Context, file: tree.File) -> tree.Header | None:
    """Puts the statements of a file, of its bases and of the prelude into the scope.

    Returns:
        The `objective` line of the file.
    """
    header = _collect(ctx, file, ())
    _collect_prelude(ctx)
    return header


def _collect(
    ctx: Context, file: tree.File, bases: tuple[tuple[str, Span], ...]
) -> tree.Header | None:
    header = next((s for s in file.statements if isinstance(s, tree.Header)), None)
    if header and header.base:
        if any(header.base.id == name for name, _ in bases) or header.base.id == header.name.id:
            chain = " from ".join(
                [*([name for name, _ in bases] or [header.name.id]), header.base.id]
            )
            ctx.record(
                "cyclic-base",
                f"`{header.base.id}` starts from itself",
                header.base.span,
                help=f"the chain is: {chain}",
            )
            raise ObjectiveError(ctx.errors)
        base = ctx.find(header.base.id, header.base.span)
        _collect(ctx, base, (*bases, (header.base.id, header.base.span)))
    seen: dict[tuple[str, str], Span] = {}
    for statement in file.statements:
        _add(ctx, statement, seen, first=statement is header)
    return header


def _add(
    ctx: Context, statement: tree.Statement, seen: dict[tuple[str, str], Span], first: bool
) -> None:
    scope = ctx.scope
    note(ctx, statement)
    match statement:
        case tree.Header():
            if not first:
                ctx.record(
                    "duplicate-name", "a file holds one objective", statement.span,
                    help="put the second one into a file of its own",
                )  # fmt: skip
            return
        case (
            tree.Let(name)
            | tree.Def(name)
            | tree.Param(name)
            | tree.Given(name)
            | tree.State(name)
            | tree.Learn(name)
            | tree.Policy(name)
        ):
            if isinstance(statement, tree.Given) and statement.indices is None:
                scope.givens[name.id] = statement
                return
            if _is_reserved(ctx, name) or is_twice(ctx, ("name", name.id), name.span, seen):
                return
            if isinstance(statement, tree.Def):
                arguments: dict[tuple[str, str], Span] = {}
                for argument in statement.arguments:
                    is_twice(ctx, ("name", argument.id), argument.span, arguments)
            for table in scope.named:
                table.pop(name.id, None)  # an override may also change what kind of thing it is
            match statement:
                case tree.Let():
                    scope.lets[name.id] = statement
                case tree.Def():
                    scope.defs[name.id] = statement
                case tree.Param():
                    scope.params[name.id] = statement
                case tree.Given():
                    scope.givens[name.id] = statement
                case tree.State():
                    scope.states[name.id] = statement
                case tree.Learn():
                    scope.learned[name.id] = statement
                case tree.Policy():
                    scope.policies[name.id] = statement
        case tree.Report(name):
            if not is_twice(ctx, ("report", name.id), name.span, seen):
                scope.reports[name.id] = statement
        case tree.Sample():
            if not is_twice(ctx, ("sample", ""), statement.span, seen):
                scope.samples["sample"] = statement
        case tree.Keep():
            if not is_twice(ctx, ("keep", ""), statement.span, seen):
                scope.keeps["keep"] = statement
        case tree.Goal():
            what = _WHOSE[statement.whose]
            if not is_twice(ctx, ("goal", what), statement.span, seen):
                scope.goals[statement.whose] = statement


_WHOSE = {
    "policy": "", "critic": "for the critic", "learn": "for what is learned beside the policy",
}  # fmt: skip


def _is_reserved(ctx: Context, name: tree.Name) -> bool:
    taken = name.id not in SOFT and (
        name.id in COLUMNS
        or name.id in BUILT_IN_POLICIES
        or name.id in FUNCTIONS
        or name.id in REDUCTIONS
        or name.id in SUBSETS
        or name.id in MEANING
    )
    if name.id == "reward":
        ctx.record(
            "reserved-name", "`reward` is the reward that comes with the data", name.span,
            help="a sum of several has a name of its own, `R = correct + 0.1 * format`, and "
            "each is declared by itself: `given correct[p,i] as reward`",
        )  # fmt: skip
    elif taken:
        ctx.record(
            "reserved-name", f"`{name.id}` already has a meaning: {meaning(name.id)}",
            name.span, help=f"choose a different name, for example `{name.id}_2`",
        )  # fmt: skip
    if taken:
        ctx.values[name.id] = None  # what reads it is silent
    return taken


def is_twice(
    ctx: Context, key: tuple[str, str], span: Span, seen: dict[tuple[str, str], Span]
) -> bool:
    if key not in seen:
        seen[key] = span
        return False
    match key:
        case "name", name:
            message, help = f"`{name}` is defined twice", ""
        case "report", name:
            message, help = f"`{name}` is reported twice", ""
        case "option", name:
            message, help = f"`sample` has the option `{name}` twice", ""
        case "goal", whose:
            message = " ".join(("a second goal", whose)).strip()
            help = "an objective has one: add its terms, or subtract what is minimized"
        case "keep", _:
            message, help = "a second `keep`", "join the two conditions by `and`"
        case keyword, _:
            message, help = f"a second `{keyword}`", "one statement takes all options"
    ctx.record(
        "duplicate-name", message, span, help=help,
        labels=(Label(seen[key], "first here"),),
    )  # fmt: skip
    return True


def _collect_prelude(ctx: Context) -> None:
    scope = ctx.scope
    taken = {name for table in scope.named for name in table}
    for statement in ctx.prelude.statements:
        note(ctx, statement)
        if isinstance(statement, tree.Def) and statement.name.id not in taken:
            scope.defs[statement.name.id] = statement
        if isinstance(statement, tree.Let) and statement.name.id not in taken:
            scope.lets[statement.name.id] = statement
