"""Mistakes inside a formula: brackets, commas, conditions, the indices of a reduction."""

from __future__ import annotations

import re

from objdsl.diagnostic import Diagnostic, Edit, Fix
from objdsl.source import Span
from objdsl.syntax.messages import syntax, two_readings
from objdsl.syntax.mistakes.missing import closing_bracket
from objdsl.syntax.mistakes.mistake import (
    CLOSED_BY,
    CLOSING,
    END,
    FUNCTION_NAMES,
    IF_ELSE,
    INFIX,
    NAMES,
    VALUE_ENDS,
    VALUE_STARTS,
    Mistake,
    spelling,
)

_GROUPED = frozenset({"per", "over", "of", "within", "for", "in", "group", "groupby", "with"})


def chained(m: Mistake) -> Diagnostic | None:
    """`0 < x < 1`."""
    if m.here.type != "COMPARISON" or m.before.type not in VALUE_ENDS or m.in_binder:
        return None
    first = next((token for token in reversed(m.level) if token.type == "COMPARISON"), None)
    if first is None:
        return None
    middle = m.span(m.tokens[m.tokens.index(first) + 1], m.before).text
    if len(middle) > 30 or "\n" in middle:
        middle = "x"
    return m.diagnostic(
        "comparisons cannot be chained",
        help=f"write `... {first} {middle} and {middle} {m.here} ...`",
        label=(first, "the first comparison"),
    )


def conditional(m: Mistake) -> Diagnostic | None:
    if m.here.type == "IF" and m.wants_value:
        return m.diagnostic("a value goes before its `if`", help=IF_ELSE)
    if "ELSE" in m.accepts and m.here.type not in VALUE_STARTS | {"EQUAL"}:
        opening = next(token for token in reversed(m.level) if token.type == "IF")
        return m.diagnostic("this `if` has no `else`", opening, help=IF_ELSE)
    return None


def bar(m: Mistake) -> Diagnostic | None:
    if m.here.type != "VBAR":
        return None
    if m.wants_value:
        length = re.match(r"\|\s*[ayo](?:_\w+)?\s*\|", m.source.text[m.span(m.here).start :])
        help = "the length of a response is `|y|`" if length else "an absolute value is `abs(x)`"
        return m.diagnostic("`|...|` can only be `|y|`", help=help)
    return m.diagnostic(
        "a condition goes in the brackets of a reduction, after its indices",
        help="for example `mean[t | M] x`; the logical operator is `or`",
    )


def equal(m: Mistake) -> Diagnostic | None:
    """`=` inside a formula."""
    if m.here.type != "EQUAL":
        return None
    if m.statement in ("maximize", "minimize") and m.level[1:] == (m.before,) and not m.opened:
        return m.diagnostic(
            "a goal has no name",
            m.before,
            m.here,
            help=f"write `{m.statement} ...`; to log a value, write `report {m.before} = ...`",
        )
    if m.statement == "sample":
        return m.diagnostic(
            "the value of an option follows its name", help="for example `group 16`"
        )
    if m.in_binder:
        return m.diagnostic(
            "square brackets list indices, without values",
            help=f"for example `{m.owner}[p,i,t]`, `{m.owner}[j != i]` or `{m.owner}[s >= t]`",
        )
    named = len(m.level) == 1 or (len(m.level) > 1 and m.level[-2].type == "COMMA")
    if m.bracket.type == "LPAR" and m.owner.type in NAMES and named:
        return m.diagnostic(
            "function arguments are positional",
            m.before,
            m.here,
            help="write them in the order of the definition: `clip(r, 1 - eps, 1 + eps)`",
        )
    if m.wants_operator:
        return m.diagnostic("`=` defines a name, it does not compare", under="write `==`")
    return None


def binder(m: Mistake) -> Diagnostic | None:
    """Something other than an index between `[` and `]`."""
    if not m.in_binder:
        return None
    if m.here.type in ("COLON", "NUMBER"):
        return m.diagnostic(
            "square brackets list indices: there are no positions or slices",
            help="for example `mean[t] x`; the value at the next token is `next(x)`",
        )
    grouped = any(token.type == "BY" for token in m.level)
    if m.here.type == "COMPARISON" and not grouped:
        return m.diagnostic(
            "brackets hold one relation, before any other indices",
            help="for example `sum[i] sum[s >= t] x`, or `mean[j != i, t by turn] x`",
        )
    if str(m.here) in _GROUPED and m.after.type in VALUE_STARTS and not grouped:
        return m.diagnostic(
            "elements are grouped with `by`", help="for example `mean[t by turn] x`"
        )
    if m.here.type in VALUE_STARTS:
        if m.after.type in ("COMMA", "RSQB", "VBAR", "BY"):
            return m.diagnostic(f"`,` is missing before `{m.here}`")
        return closing_bracket(m)
    return None


def lists(m: Mistake) -> Diagnostic | None:
    """`[1, 2]`, `(a, b)`."""
    opens = m.wants_value and m.here.type in ("LSQB", "LBRACE")
    is_grouped = m.bracket.type == "LPAR" and m.owner.type not in VALUE_ENDS
    if opens or (is_grouped and m.here.type == "COMMA"):
        return m.diagnostic(
            "a formula has no lists", help="the indices of a value follow from its formula"
        )
    return None


def negation(m: Mistake) -> Diagnostic | None:
    """`mean[t] not x`."""
    if m.here.type != "NOT" or m.wants_value:
        return None
    return m.diagnostic("`not` and its operand need brackets here", help="for example `(not x)`")


def bracketless(m: Mistake) -> Diagnostic | None:
    """`log pi / ref`."""
    starts = m.here.type in VALUE_STARTS - {"LPAR"}
    if str(m.before) not in FUNCTION_NAMES or not starts or not m.wants_operator:
        return None
    ends = [m.operand(m.at)]
    while m.token(ends[-1] + 1).type in ("TIMES", "SLASH", "POWER"):
        if m.token(ends[-1] + 2).type not in VALUE_STARTS:
            break
        ends.append(m.operand(ends[-1] + 2))
    function, whole = str(m.before), m.span(m.before, m.token(ends[-1]))
    choices = []
    for end in dict.fromkeys((ends[0], ends[-1])):
        between = Span(m.source, m.span(m.before).end, m.span(m.here).start)
        stop = m.span(m.token(end)).end
        inside = Span(m.source, between.end, stop).text
        rest = Span(m.source, stop, whole.end).text
        edits = (Edit(between, "("), Edit(Span(m.source, stop, stop), ")"))
        choices.append(Fix(f"`{function}({' '.join(inside.split())}){rest}`", edits))
    if len(choices) == 1:
        return m.diagnostic(
            f"the argument of `{function}` needs round brackets", m.before,
            m.token(ends[-1]), choices=tuple(choices),
        )  # fmt: skip
    return two_readings(
        f"the argument of `{function}` may end before or after `{m.token(ends[0] + 1)}`", whole,
        "the argument of a function needs round brackets", tuple(choices),
    )  # fmt: skip


def never_closed(m: Mistake) -> Diagnostic | None:
    if m.here.type != END or not m.piece.unclosed:
        return None
    offset = m.piece.unclosed[-1]
    span = Span(m.source, offset, offset + 1)
    return syntax(f"this `{span.text}` is never closed", span)


def empty(m: Mistake) -> Diagnostic | None:
    """A comma or a bracket with nothing before it."""
    if m.here.type not in CLOSING | {"COMMA"}:
        return None
    if m.before.type == "COMMA":
        return m.diagnostic(
            "nothing follows this comma", m.before, under="delete it, or add a value"
        )
    if m.before.type not in CLOSED_BY:
        return None
    if m.here.type == "COMMA":
        return m.diagnostic("nothing precedes this comma")
    if m.in_binder and m.here.type == "RSQB":
        help = f"for example `{m.owner}[t]` or `{m.owner}[p,i,t]`"
        return m.diagnostic("these brackets need an index", m.before, m.here, help=help)
    return m.diagnostic("these brackets are empty", m.before, m.here)


def wrong_bracket(m: Mistake) -> Diagnostic | None:
    if m.here.type not in CLOSING or m.before.type in INFIX:
        return None
    if not m.opened:
        return m.diagnostic(f"this `{m.here}` has no matching opening bracket")
    closing = CLOSED_BY[m.bracket.type]
    if m.here.type == closing:
        return None
    return m.diagnostic(
        f"`{m.here}` cannot close `{m.bracket}`",
        under=f"close it by {spelling(closing)}",
        label=(m.bracket, "opened here"),
    )
