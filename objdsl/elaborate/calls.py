"""Functions, and names before square brackets."""

from __future__ import annotations

from dataclasses import replace

from objdsl.elaborate.checks import at_tokens, refuse_learned
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import is_own, is_trained, known_names, resolved, signature
from objdsl.elaborate.reductions import counted
from objdsl.elaborate.scope import Frame
from objdsl.elaborate.suggestions import arguments_of_code, no_function, no_index, unknown_indexed
from objdsl.elaborate.wording import index_name
from objdsl.ir import build
from objdsl.ir.columns import CLOCK
from objdsl.ir.declarations import BUILT_IN_POLICIES
from objdsl.ir.indices import written
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Expr,
    LogDist,
    LogProb,
    Position,
    Present,
    Scan,
    Shift,
    Stop,
    Unary,
)
from objdsl.ir.objective import Named
from objdsl.ir.ops import COUNT, REDUCTIONS, unary
from objdsl.ir.ops import FUNCTIONS as UNARY_FUNCTIONS
from objdsl.syntax import tree
from objdsl.syntax.language import FUNCTIONS, SOFT, SUBSETS


def call(ctx: Context, node: tree.Call) -> Expr:
    """`f(x)`, for a function of the file, the prelude or the language."""
    node = replace(node, function=resolved(ctx, node.function))
    name = node.function.id
    if name in ctx.scope.defs:
        return _inline(ctx, ctx.scope.defs[name], node)
    if name not in FUNCTIONS or is_own(ctx, name):
        with ctx.then(*arguments_of_code(ctx, node)):
            no_function(ctx, node)
    _check_arguments(ctx, node, FUNCTIONS[name])
    args = [build.real(value) for value in ctx.all(*node.arguments)]
    match name:
        case "sg":
            return build.stop(args[0])
        case "min" | "max":
            result = args[0]
            for other in args[1:]:
                result = Binary("min" if name == "min" else "max", result, other)
            return result
        case "clip":
            return Clip(*args)
        case "comb":
            for x, part in zip(args, node.arguments, strict=True):
                refuse_learned(ctx, x, "`comb` counts", part.span)
                if x.current:
                    message = "`comb` counts, and this changes with the policy that is trained"
                    ctx.fail("wrong-type", message, part.span)
            return Binary("comb", *args)
        case "next":
            return Shift(at_tokens(ctx, args[0], node.arguments[0].span), 1)
        case "togo":
            x, g = (
                at_tokens(ctx, x, part.span) for x, part in zip(args, node.arguments, strict=True)
            )
            refuse_learned(ctx, g, "a discount does not change in training", node.arguments[1].span)
            if g.current:
                ctx.fail(
                    "wrong-type", "a discount does not change with the policy that is trained",
                    node.arguments[1].span, help="of its value as it is, `sg(...)`, neither",
                )  # fmt: skip
            return Scan(">=", x, None if g == build.ONE else g)
        case "floor" if args[0].current:
            message = "`floor` has no gradient, and this changes with the policy that is trained"
            ctx.fail("wrong-type", message, node.arguments[0].span)
    return unary(UNARY_FUNCTIONS[name], args[0])


def indexed(ctx: Context, node: tree.Indexed) -> Expr:
    """`pi[v]`, the one name that takes an index."""
    name, binder = resolved(ctx, node.name).id, node.binder
    policies = (*BUILT_IN_POLICIES, *ctx.scope.policies)
    if name == COUNT and not is_own(ctx, name):
        return counted(ctx, binder, None)
    if name in (*REDUCTIONS, *SUBSETS, *SOFT) and name not in known_names(ctx):
        ctx.fail(
            "wrong-arguments", f"`{name}` has nothing to work on", node.span,
            help=f"`{name}[{binder.span.text.strip('[]')}] x`; a minus needs brackets: "
            f"`{name}[t] (-x)`",
        )  # fmt: skip
    letters = [index.id for index in binder.indices]
    bare = binder.condition is None and binder.relation is None and not binder.keys
    if bare and len(letters) == 1 and letters[0] in ctx.frames[-1].letters:
        return _of_element(ctx, node, letters[0])
    over_vocabulary = letters == ["v"] and bare
    if name in ctx.frames[-1].values and over_vocabulary:
        distribution = _distribution(ctx.frames[-1].values[name])
        if distribution is None:
            ctx.fail(
                "wrong-index", f"`{name}` is not a policy here, so it has no distribution",
                node.span, help=f"a function that reads `{name}[v]` takes a policy for `{name}`, "
                "as in `kl(pi, ref)`",
            )  # fmt: skip
        return distribution
    ctx.read.add(name)
    if name in policies and over_vocabulary:
        return build.exp(LogDist(name, is_trained(ctx, name)))
    if name in policies:
        ctx.fail(
            "wrong-index", f"`{name}` can be indexed by `v` alone, an entry of the vocabulary",
            binder.span, help=f"`{name}` alone is the probability of the sampled token",
        )  # fmt: skip
    if name not in known_names(ctx) and name not in CLOCK:
        unknown_indexed(ctx, node)
    ctx.fail(
        "wrong-index", f"`{name}` is not indexed: its indices are implied", node.span,
        help=f"write `{name}`" + "".join(f", or `{name}[{x}]`" for x in ctx.frames[-1].letters),
    )  # fmt: skip


def _distribution(value: Expr) -> Expr | None:
    """The distribution over the vocabulary under the policy that a value is; None for other
    values."""
    match value:
        case Unary("exp", LogProb(policy, trained)):
            return build.exp(LogDist(policy, trained))
        case Unary("exp", Stop(LogProb(policy, trained))):
            return build.stop(build.exp(LogDist(policy, trained)))
    return None


def _of_element(ctx: Context, node: tree.Indexed, letter: str) -> Expr:
    """`reward[j]` and `reward[i]`: the values of the running element, and of the present one."""
    frame = ctx.frames[-1]
    index = next(name for name, element in frame.letters.items() if element == "present")
    if node.name.id == index == "t":  # `t` alone is hidden, and its letter says whose it is
        value: Expr = Position()
    else:
        value = ctx.expr(node.name)
    if index not in value.indices:
        ctx.fail(
            "wrong-index",
            f"`{node.name.id}` has no {index_name('i' if index == 'i' else 't')} index: it has "
            f"{written(value.indices)}",
            node.span, help=f"write `{node.name.id}`",
        )  # fmt: skip
    return Present(value) if frame.letters[letter] == "present" else value


def _check_arguments(ctx: Context, call: tree.Call, wanted: int) -> None:
    given = len(call.arguments)
    if given == wanted or (wanted < 0 and given >= -wanted):
        return
    least = "at least " if wanted < 0 else ""
    name = call.function.id
    if name in REDUCTIONS and given == 1:
        no_index(ctx, call)
    ctx.fail(
        "wrong-arguments",
        f"`{name}` takes {least}{abs(wanted)} argument{'s' if abs(wanted) > 1 else ''}, "
        f"not {given}",
        call.span, help=f"`{name}({signature(ctx, name)})`",
    )  # fmt: skip


def _inline(ctx: Context, function: tree.Def, call: tree.Call) -> Expr:
    """The body of a function, with the arguments in place of its parameters."""
    name = function.name.id
    _check_arguments(ctx, call, len(function.arguments))
    names = [other for other, _ in ctx.open]
    if name + "()" in names:
        cycle = [*names[names.index(name + "()") :], name + "()"]
        ctx.fail(
            "cyclic-binding", f"the function `{name}` calls itself", call.span,
            help="the cycle is " + " -> ".join(cycle),
        )  # fmt: skip
    args = ctx.all(*call.arguments)
    bound = {a.id: value for a, value in zip(function.arguments, args, strict=True)}
    ctx.read.add(name)
    ctx.enter(name + "()", call.span)
    ctx.frames.append(Frame(bound))
    site = ctx.site
    if function.span.source is ctx.prelude.source:
        ctx.site = site or call.span
    try:
        value = ctx.expr(function.body)
        ctx.calls.append(Named(name, value, call.span))
        return value
    finally:
        ctx.site = site
        ctx.frames.pop()
        ctx.open.pop()
