"""The meaning of a name: a definition, an argument, a column, a policy, an index."""

from __future__ import annotations

import math
from dataclasses import replace

from objdsl.elaborate.context import Context, RecordedError
from objdsl.elaborate.scope import Frame
from objdsl.ir import build
from objdsl.ir.columns import CLOCK, IDS
from objdsl.ir.declarations import BUILT_IN_POLICIES
from objdsl.ir.indices import MEANING, Index
from objdsl.ir.nodes import Const, Expr, LogProb, Param, Position
from objdsl.ir.objective import Named
from objdsl.ir.ops import COUNT
from objdsl.source import Span
from objdsl.syntax import tree
from objdsl.syntax.foreign import ALIASES
from objdsl.syntax.language import COLUMNS, FUNCTIONS


def value_of(ctx: Context, name: tree.Name) -> Expr:
    """The value of a name at the place where it is read."""
    name = resolved(ctx, name)
    frame = ctx.frames[-1]
    if name.id in frame.hidden:
        ctx.fail("unknown-name", frame.hidden[name.id], name.span)
    if name.id in frame.values:
        return frame.values[name.id]
    scope = ctx.scope
    ctx.read.add(name.id)
    if ctx.values.get(name.id, name) is None and name.id not in scope.lets:
        raise RecordedError
    if name.id in scope.lets:
        return binding(ctx, name.id, name.span)
    if name.id in ctx.params:
        domain = ctx.params[name.id].domain
        values = domain.values or (domain.lower, domain.upper)
        return Param(name.id, min(values), max(values))
    if name.id in ctx.givens:
        return ctx.givens[name.id]
    if name.id in scope.givens:
        raise RecordedError
    if name.id in ctx.states:
        return ctx.states[name.id]
    if name.id in scope.states:
        raise RecordedError
    if name.id in ctx.learned:
        return ctx.learned[name.id]
    if name.id in scope.learned:
        raise RecordedError
    if name.id in COLUMNS:
        return COLUMNS[name.id]
    if name.id in BUILT_IN_POLICIES or name.id in scope.policies:
        return build.exp(LogProb(name.id, is_trained(ctx, name.id)))
    if name.id == "t":
        return Position()
    if name.id == IDS.leaf.name and name.id not in scope.defs:
        ctx.fail(
            "wrong-type", "`token` is the id of a token, and only compared", name.span,
            help="`token == 5` and `token != 5` are masks; the number itself means nothing",
        )  # fmt: skip
    if name.id in CLOCK and name.id not in scope.defs:
        return CLOCK[name.id].leaf
    if name.id == "inf":
        return build.const(float("inf"))
    if name.id in MEANING:
        ctx.fail(
            "unknown-name", f"the index `{name.id}` has no value of its own", name.span,
            help="it stands in brackets: " + f"`mean[{name.id}] ...`",
        )  # fmt: skip
    if name.id == "y":
        ctx.fail(
            "unknown-name", "the response `y` has no value of its own", name.span,
            help="its length is written |y|",
        )  # fmt: skip
    if name.id == COUNT:
        ctx.fail(
            "wrong-arguments", "`count` needs what it counts", name.span,
            help="`count[i]` is how many responses there are, `count[t | m]` the tokens of a mask",
        )  # fmt: skip
    if name.id in scope.defs or name.id in FUNCTIONS:
        ctx.fail(
            "wrong-arguments", f"`{name.id}` is a function; give it its arguments", name.span,
            help=f"`{name.id}({signature(ctx, name.id)})`",
        )  # fmt: skip
    ctx.fail(
        "unknown-name", f"there is no `{name.id}`", name.span,
        near_to=(name.id, [*known_names(ctx), *CLOCK]),
        help=f"a hyper-parameter is declared by `param {name.id} = ...`, a column of the data "
        f"by `given {name.id}[p,i]`",
    )  # fmt: skip


def binding(ctx: Context, name: str, use: Span) -> Expr:
    """The value of a definition, which is elaborated at its first use."""
    if any(name == other for other, _ in ctx.open):
        names = [other for other, _ in ctx.open]
        cycle = [*names[names.index(name) :], name]
        ctx.fail(
            "cyclic-binding", f"`{name}` is defined by itself", use,
            help="the cycle is " + " -> ".join(cycle),
        )  # fmt: skip
    if name in ctx.values:
        value = ctx.values[name]
        if value is None:
            raise RecordedError
        return value
    let = ctx.scope.lets[name]
    ctx.enter(name, use)
    frames, ctx.frames = ctx.frames, [Frame()]
    site = ctx.site
    if let.span.source is not ctx.prelude.source:
        ctx.site = None
    ctx.values[name] = None
    try:
        value = ctx.expr(let.value)
    finally:
        ctx.frames, ctx.site = frames, site
        ctx.open.pop()
    ctx.values[name] = value
    # A name for an infinity or NaN is reported by the checker.
    if value.children or (isinstance(value, Const) and not math.isfinite(value.value)):
        ctx.order.append(Named(name, value, let.span))
    return value


def resolved(ctx: Context, name: tree.Name) -> tree.Name:
    """A name, or the standard spelling of it; definitions of the file take precedence."""
    to = ALIASES.get(name.id)
    if to is None or is_own(ctx, name.id):
        return name
    ctx.aliases[name.span.source, name.span.start] = to
    return replace(name, id=to)


def is_own(ctx: Context, name: str) -> bool:
    """Whether a name is defined by the file, or is an argument of a function that is being read."""
    return any(name in names for names in (ctx.frames[-1].values, *ctx.scope.named))


def known_names(ctx: Context) -> list[str]:
    """The names that have a value at this place."""
    scope = ctx.scope
    return [
        *ctx.frames[-1].values, *scope.lets, *ctx.params, *ctx.givens, *ctx.states, *ctx.learned,
        *COLUMNS, *BUILT_IN_POLICIES, *scope.policies,
    ]  # fmt: skip


def is_trained(ctx: Context, policy: str) -> bool:
    declared = ctx.scope.policies.get(policy)
    source = declared and declared.source
    return policy == "pi" or (isinstance(source, tree.Layer) and source.of.id == "pi")


def signature(ctx: Context, function: str) -> str:
    if function in ctx.scope.defs:
        return ", ".join(a.id for a in ctx.scope.defs[function].arguments)
    return {
        "clip": "x, lo, hi", "togo": "x, g", "min": "a, b", "max": "a, b", "comb": "n, k",
    }.get(function, "x")  # fmt: skip


def index_of(ctx: Context, name: tree.Name) -> Index:
    if name.id not in MEANING:
        ctx.fail(
            "unknown-name", f"there is no index `{name.id}`", name.span,
            near_to=(name.id, MEANING),
            help="; ".join(f"{index}: {meaning}" for index, meaning in MEANING.items()),
        )  # fmt: skip
    return name.id
