"""What is missing where a statement ends too early: a value, an operator, a bracket, a keyword."""

from __future__ import annotations

from lark import Token

from objdsl.diagnostic import Diagnostic
from objdsl.ir.ops import REDUCTIONS
from objdsl.spelling import canonical
from objdsl.syntax.messages import FORMS
from objdsl.syntax.mistakes.mistake import (
    END,
    INFIX,
    NAMES,
    VALUE_ENDS,
    VALUE_STARTS,
    Mistake,
    spelling,
)


def value(m: Mistake) -> Diagnostic | None:
    if not m.wants_value:
        return None
    help = ""
    if m.here.type == END and m.before.type in INFIX:
        help = "a formula continues on the next line only inside brackets"
    return m.diagnostic(f"a value is missing after `{m.before}`", m.before, help=help)


def operator(m: Mistake) -> Diagnostic | None:
    if not m.wants_operator or m.here.type not in VALUE_STARTS:
        return None
    if canonical(m.before) in REDUCTIONS:
        return brackets_of_index(m, m.before)
    reduction, _, index = canonical(m.before).partition("_")
    if reduction in REDUCTIONS and index in ("p", "i", "t", "v"):
        return m.diagnostic(
            f"the index of `{reduction}` goes in square brackets",
            m.before,
            under=f"write `{reduction}[{index}]`",
        )
    if m.after.type == "EQUAL" and m.here.type in NAMES and not m.opened:
        return m.diagnostic(
            "a statement ends at the end of its line",
            help=f"start a line with `{m.here} = ...`",
        )
    call = m.tokens[max(m.at - 4, 0) : m.at]
    if [token.type for token in call] == ["NAME", "LPAR", "NAME", "RPAR"]:
        function, _, index, closing = call
        if str(function) in REDUCTIONS:
            return m.diagnostic(
                f"the index of `{function}` goes in square brackets",
                function,
                closing,
                under=f"write `{function}[{index}]`",
            )
    if m.bracket.type == "LSQB" and m.piece.unclosed:
        return closing_bracket(m)
    help = "write a product with `*`"
    if m.bracket.type == "LPAR" and m.owner.type in VALUE_ENDS:
        help = "two values are separated by `,`, and a product is written with `*`"
    return m.diagnostic(
        f"an operator is missing between `{m.before}` and `{m.here}`", m.before, m.here, help=help
    )


def keyword_or_sign(m: Mistake) -> Diagnostic | None:
    """A keyword or sign that every such statement has at this place."""
    if m.wants_operator or not m.statement:
        return None
    words = ("EQUAL", "NEXT", "COLON", "FROM", "WHERE", "AT", "LAYER", "LPAR", "COMMA")
    wanted = m.accepts - ({"AT"} if "BEFORE" in m.accepts else set())
    missing = next((spelling(word) for word in words if word in wanted), None)
    if m.accepts >= NAMES:
        missing = "a number, or a parameter," if "NUMBER" in m.accepts else "a name"
    if m.accepts == {"NAME"}:  # what follows the `without` of a layer
        missing = "`norm`"
    if missing is None:
        return None
    help = f"for example `{FORMS[m.statement]}`"
    if m.here.type == END:
        return m.diagnostic(f"{missing} is missing after `{m.before}`", m.before, help=help)
    return m.diagnostic(f"{missing} is missing before `{m.here}`", help=help)


def brackets_of_index(m: Mistake, reduction: Token) -> Diagnostic:
    return m.diagnostic(
        f"the index of `{reduction}` goes in square brackets",
        reduction,
        help=f"for example `{reduction}[t] x`",
    )


def closing_bracket(m: Mistake) -> Diagnostic:
    return m.diagnostic(f"`]` is missing before `{m.here}`", label=(m.bracket, "opened here"))
