"""Mistakes at the start of a statement, and in its parts."""

from __future__ import annotations

from lark import Token

from objdsl.diagnostic import Diagnostic, near
from objdsl.ir.ops import REDUCTIONS
from objdsl.syntax.language import SAMPLING_NUMBERS
from objdsl.syntax.messages import FORMS
from objdsl.syntax.mistakes.missing import brackets_of_index
from objdsl.syntax.mistakes.mistake import (
    ARITHMETIC,
    CLOSING,
    IF_ELSE,
    INFIX,
    NAMES,
    VALUE_STARTS,
    Mistake,
    is_keyword,
)


def first_token(m: Mistake) -> Diagnostic | None:
    """A statement with an invalid first token."""
    if m.at != 0:
        return None
    if m.here.type in CLOSING:
        return m.diagnostic(f"this `{m.here}` has no matching opening bracket")
    if m.here.type == "IF":
        return m.diagnostic(
            "there is no `if` statement, only a conditional value",
            help=f"{IF_ELSE}: `x = a if A > 0 else b`",
        )
    if m.here.type in INFIX:
        return m.diagnostic(
            f"a statement cannot start with `{m.here}`",
            help="to continue the line above, put its formula in brackets: inside them line ends "
            "are ignored",
        )
    return _not_a_name(m, m.here) if is_keyword(m.here) else _unused(m)


def second_token(m: Mistake) -> Diagnostic | None:
    """A statement that starts with a name that `=` does not follow."""
    first = m.token(0)
    if m.at != 1 or first.type not in NAMES:
        return None
    if str(first) in FORMS and is_keyword(m.here):  # `state def = ...`
        return _not_a_name(m, m.here)
    binds = any(token.type == "EQUAL" for token in m.tokens)
    if m.here.type == "COMMA":
        return m.diagnostic("a statement defines one name")
    if m.here.type == "LPAR" and binds:
        return m.diagnostic(
            "a function starts with `def`", first, help=f"for example `{FORMS['def']}`"
        )
    if m.here.type == "LSQB" and binds:
        return m.diagnostic(
            "a definition has no indices: they are implied",
            first,
            help=f"write `{first} = ...`",
        )
    if m.here.type in INFIX or m.here.type in ("LPAR", "LSQB"):
        return _unused(m)
    goal = {"max": "maximize", "min": "minimize"}.get(str(first))
    if str(first) in REDUCTIONS and goal is None:
        return brackets_of_index(m, first)
    forms = [form for form in FORMS if form != "learn" or str(first) != "let"]
    if meant := goal or near(str(first), forms):
        return m.diagnostic(
            f"`{first}` does not start a statement",
            first,
            under=f"did you mean `{meant}`?",
            help=f"for example `{FORMS[meant]}`",
        )
    name = m.here if m.after == "=" else first
    return m.diagnostic(
        f"`{first}` does not start a statement",
        first,
        help=f"to define a name, write `{name} = ...`",
    )


def _unused(m: Mistake) -> Diagnostic:
    return m.diagnostic(
        "this value is not used",
        m.token(0),
        m.token(len(m.tokens) - 1),
        help="name it, `x = ...`; log it, `report x = ...`; or make it the goal, `maximize ...`",
    )


def keyword_bound(m: Mistake) -> Diagnostic | None:
    """`report = x`, `maximize: x`."""
    if m.at != 1 or not m.statement or m.here.type not in ("EQUAL", "COLON"):
        return None
    return m.diagnostic(
        f"`{m.statement}` is a keyword: it starts a different kind of statement",
        m.token(0),
        help=f"for example `{FORMS[m.statement]}`",
    )


def keyword_as_name(m: Mistake) -> Diagnostic | None:
    """A keyword in place of a name."""
    if not is_keyword(m.here) or not m.accepts & NAMES:
        return None
    if (m.wants_value or m.wants_operator) and m.here.type in INFIX | {"NOT", "IN"}:
        return None
    return _not_a_name(m, m.here)


def _not_a_name(m: Mistake, keyword: Token) -> Diagnostic:
    help = ""
    if str(keyword) in FORMS:
        help = f"it starts a statement: `{FORMS[str(keyword)]}`"
    elif keyword == "critic":
        help = f"the loss of the critic is minimized: `{FORMS['minimize']}`"
    elif m.at and m.statement:
        help = f"for example `{FORMS[m.statement]}`"
    return m.diagnostic(f"`{keyword}` is a keyword, and cannot be a name", keyword, help=help)


def sampling_option(m: Mistake) -> Diagnostic | None:
    """`temperature T`, in a `sample` statement or alone."""
    if m.at == 1 and str(m.before) in SAMPLING_NUMBERS and m.here.type in NAMES | {"NUMBER"}:
        return m.diagnostic(
            "this option belongs in the `sample` statement", m.before, m.here,
            help=f"write `sample from mu: {m.before} {m.here}`, with a number",
        )  # fmt: skip
    return None


def role(m: Mistake) -> Diagnostic | None:
    """`given x[p,i] as reward in [0, 1]`."""
    roles = [k for k, token in enumerate(m.tokens[: m.at]) if token.type == "AS"]
    if m.statement != "given" or m.here.type not in ("IN", "ELEMENT") or not roles:
        return None
    return m.diagnostic("a domain goes before `as`", help=f"for example `{FORMS['given']}`")


def state(m: Mistake) -> Diagnostic | None:
    """`state x = a / 2 next ...`."""
    begun = m.statement == "state" and not any(t.type == "NEXT" for t in m.level)
    if not begun or m.opened or m.here.type not in INFIX | {"LSQB"}:
        return None
    return m.diagnostic(
        "a state starts from a number or a name; anything else stands in brackets",
        help=f"for example `state {m.token(1)} = (1 / 2) next ...`",
    )


def learn(m: Mistake) -> Diagnostic | None:
    """`learn x = exp(y)`, `learn x = 1 next ...`, `maximize learn x`."""
    if m.statement == "maximize" and m.at == 2 and m.before.type == "LEARN":
        return m.diagnostic(
            "`learn` stands behind `minimize` alone", m.before,
            help="what the policy maximizes trains learned numbers, too, unless they have a goal "
            "of their own: `minimize learn ...`",
        )  # fmt: skip
    if m.statement != "learn":
        return None
    if m.here.type == "NEXT":
        return m.diagnostic(
            "the optimizer changes what is learned",
            help=f"what a formula changes is a state: `state {m.token(1)} = ... next ...`",
        )
    formula = m.here.type in ARITHMETIC and m.before.type in ("NUMBER", "INF", "INFINITY")
    if formula or (m.before.type == "EQUAL" and m.here.type in VALUE_STARTS):
        name = m.token(1)
        return m.diagnostic(
            f"`{name}` must start from a number",
            help=f"a formula of it has a name of its own: `y = exp({name})`",
        )
    return None


def param(m: Mistake) -> Diagnostic | None:
    domain = any(token.type in ("IN", "ELEMENT") for token in m.tokens[: m.at])
    if domain and m.here.type == "COMMA" and m.bracket.type != "LBRACE":
        return m.diagnostic(
            "an interval has two ends", help="for example `in (0, 1)`; values are `in {0, 1, 2}`"
        )
    if m.here.type in ("IN", "ELEMENT") and m.token(1).type == "EQUAL":
        return m.diagnostic(
            "only a `param`, a `given` or a `learn` has a domain",
            help=f"write `param {m.token(0)} = ...`, as in `{FORMS['param']}`",
        )
    if m.statement not in ("param", "learn") or m.at < 3:
        return None
    if m.before.type in ("IN", "ELEMENT"):
        return m.diagnostic(
            "a domain is an interval or a list of values",
            help="for example `in (0, 1)`, `in [0, inf)` or `in {0, 1}`",
        )
    if m.statement == "learn":
        return None
    if m.here.type in ARITHMETIC or (m.before.type == "EQUAL" and m.here.type in VALUE_STARTS):
        name = m.token(1)
        return m.diagnostic(
            f"the default of `{name}` must be a number",
            help=f"a formula needs no `param`: `{name} = ...`",
        )
    return None
