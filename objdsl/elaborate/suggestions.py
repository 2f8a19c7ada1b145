"""Functions and reductions that do not exist: what was probably meant."""

from __future__ import annotations

from typing import NoReturn

from objdsl.diagnostic import Edit, Fix
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import known_names
from objdsl.elaborate.wording import runs_over, shown
from objdsl.ir.indices import MEANING
from objdsl.ir.ops import COUNT, REDUCTIONS
from objdsl.source import Span
from objdsl.syntax import messages, tree
from objdsl.syntax.foreign import (
    ARGUMENTS,
    SYNONYMS,
    is_divergence,
    is_expectation,
    without_indices,
)
from objdsl.syntax.language import FUNCTIONS, SOFT, SUBSETS


def no_function(ctx: Context, call: tree.Call) -> NoReturn:
    name = call.function.id
    if name in REDUCTIONS or (name in (*SUBSETS, *SOFT) and name not in known_names(ctx)):
        no_index(ctx, call)
    value = name if name in known_names(ctx) else without_indices(name)
    if value in known_names(ctx) and call.arguments and not arguments_of_code(ctx, call):
        ctx.fail(
            "wrong-arguments", f"`{value}` is a value: what it depends on is not written",
            call.span, fix=Fix(f"write `{value}`", (Edit(call.span, value),)),
        )  # fmt: skip
    if name in known_names(ctx) or name == "t":
        ctx.fail(
            "wrong-arguments", f"`{name}` is a value, not a function", call.function.span,
            help=f"write `{name}`; a product is written with `*`",
        )  # fmt: skip
    reduction, _, index = name.partition("_")
    if reduction in REDUCTIONS and index in MEANING:
        written = f"{reduction}[{index}]"
        ctx.fail(
            "unknown-name", f"the index of `{reduction}` goes in square brackets",
            call.function.span, fix=Fix(f"write `{written}`", (Edit(call.function.span, written),)),
        )  # fmt: skip
    policies = [a.id for a in call.arguments if isinstance(a, tree.Name)]
    if is_divergence(name) and len(policies) == len(call.arguments) == 2:
        ctx.refuse(messages.divergence(call.span, *policies))
    if is_expectation(name) and len(call.arguments) == 1:
        (argument,) = call.arguments
        head = Span(call.span.source, call.span.start, argument.span.start)
        _expectation(ctx, call.span, head, argument)
    ctx.fail(
        "unknown-name", f"there is no function `{name}`", call.function.span,
        near_to=(name, [*FUNCTIONS, *ctx.scope.defs]),
        help=f"a function is made by `def {name}(x) = ...`",
    )  # fmt: skip


def arguments_of_code(ctx: Context, call: tree.Call) -> list[tree.Expression]:
    """The arguments of a call but for what papers alone write: `theta` of `r(theta)`."""
    return [
        argument
        for argument in call.arguments
        if not isinstance(argument, tree.Name)
        or without_indices(argument.id) not in ARGUMENTS
        or argument.id in known_names(ctx)
    ]


def no_reduction(ctx: Context, operator: tree.Name) -> NoReturn:
    name = operator.id
    guess = "mean" if is_expectation(name) else SYNONYMS.get(name)
    if guess in REDUCTIONS:
        ctx.fail(
            "unknown-name", f"there is no reduction `{name}`", operator.span,
            help=f"it is called `{guess}`",
            fix=Fix(f"write `{guess}`", (Edit(operator.span, guess),)),
        )  # fmt: skip
    if name in SOFT:
        ctx.fail(
            "wrong-arguments", f"`{name}` is a name of this file, and no reduction here",
            operator.span, help="give what the file defines a different name",
        )  # fmt: skip
    ctx.fail(
        "unknown-name", f"there is no reduction `{name}`", operator.span,
        near_to=(name, [*REDUCTIONS, *SUBSETS, *SOFT]),
        help="known are: " + ", ".join((*REDUCTIONS, COUNT)),
    )  # fmt: skip


def no_index(ctx: Context, call: tree.Call) -> NoReturn:
    """`mean(reward)`: the indices that it can run over are those of its operand."""
    name, choices = call.function.id, []
    operand, example = "...", "t"
    if len(call.arguments) == 1:
        indices = ctx.expr(call.arguments[0]).indices
        operand = shown(call.arguments[0]).strip("`").replace("this", "...")
        if not isinstance(call.arguments[0], tree.Name | tree.Call | tree.Indexed):
            operand = f"({operand})"
        example = indices[-1] if indices else example
        choices = [
            Fix(
                f"`{name}[{','.join(indices[k:])}] {operand}`: over {runs_over(indices[k:])}",
                (Edit(call.function.span, f"{name}[{','.join(indices[k:])}] "),),
            )
            for k in reversed(range(len(indices)))
        ]
    ctx.fail(
        "wrong-arguments", f"`{name}` needs the indices that it runs over", call.span,
        help=f"they stand in square brackets: `{name}[{example}] {operand}`",
        choices=tuple(choices) if len(call.arguments) == 1 else (),
    )  # fmt: skip


def unknown_indexed(ctx: Context, node: tree.Indexed) -> NoReturn:
    """An unknown name before square brackets: `E[reward]`, `KL[pi, ref]`, `softmax[v]`."""
    name, binder = node.name.id, node.binder
    inside, condition = [index.id for index in binder.indices], binder.condition
    if is_expectation(name) and len(inside) == 1 and condition is None:
        operand = binder.indices[0]
        head = Span(node.span.source, node.span.start, operand.span.start)
        _expectation(ctx, node.span, head, operand)
    if is_divergence(name):
        named = [*inside, *([condition.id] if isinstance(condition, tree.Name) else [])]
        if len(named) == 2:
            ctx.refuse(messages.divergence(node.span, *named))
    ctx.fail(
        "unknown-name", f"there is no `{name}`", node.name.span,
        near_to=(name, [*known_names(ctx), *REDUCTIONS, *SUBSETS, *SOFT]),
        help=f"a reduction is applied to what follows it: `mean[{','.join(inside)}] x`",
    )  # fmt: skip


def _expectation(ctx: Context, whole: Span, head: Span, operand: tree.Expression) -> NoReturn:
    """`E(x)` and `E[x]`; `head` is the text up to `x`."""
    indices = ctx.expr(operand).indices
    end = Span(whole.source, operand.span.end, whole.end)
    ctx.refuse(messages.expectation(whole, head, end, indices))
