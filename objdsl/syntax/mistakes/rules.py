"""A statement that the grammar cannot read: what the user probably meant.

Lark finds the first unexpected token. `explain` tries `RULES` in turn; the first rule that
recognises the mistake gives the message. `tests/golden/syntax/errors.txt` shows them all.
"""

from __future__ import annotations

from lark.exceptions import UnexpectedInput

from objdsl.diagnostic import Diagnostic
from objdsl.source import Source
from objdsl.syntax.mistakes import formulas, languages, missing, papers, statements
from objdsl.syntax.mistakes.mistake import CLOSING, END, NAMES, Mistake, locate, spelling
from objdsl.syntax.split import Piece

RULES = (
    papers.operators,
    papers.latex,
    languages.member,
    languages.character,
    languages.python,
    languages.signs,
    languages.where,
    papers.braces,
    papers.subscript,
    papers.function_of_braces,
    papers.conditioned,
    papers.indicator,
    languages.digits,
    statements.first_token,
    statements.sampling_option,
    statements.second_token,
    statements.keyword_bound,
    formulas.never_closed,
    formulas.empty,
    formulas.chained,
    formulas.conditional,
    formulas.bar,
    formulas.equal,
    formulas.binder,
    statements.role,
    statements.state,
    statements.learn,
    statements.param,
    formulas.wrong_bracket,
    formulas.lists,
    statements.keyword_as_name,
    formulas.negation,
    missing.value,
    formulas.bracketless,
    missing.operator,
    missing.keyword_or_sign,
)


def explain(source: Source, piece: Piece, error: UnexpectedInput) -> Diagnostic:
    """The diagnostic of a statement that Lark could not read."""
    mistake = locate(source, piece, error)
    for rule in RULES:
        if (diagnostic := rule(mistake)) is not None:
            return diagnostic
    return _unexpected(mistake)


def _unexpected(m: Mistake) -> Diagnostic:
    expected = _expected(m)
    if m.here.type == END:
        return m.diagnostic(f"{expected} is missing after `{m.before}`", m.before)
    return m.diagnostic(f"`{m.here}` is not possible here", help=f"expected {expected}")


def _expected(m: Mistake) -> str:
    """What is allowed at the place of the mistake, in words: `` `in` or the end of the line ``."""
    words = []
    if m.wants_value:
        words.append("a value")
    elif m.accepts >= NAMES:
        words.append("a name")
    elif "NUMBER" in m.accepts:
        words.append("a number")
    if m.wants_operator:
        words.append("an operator")
    spelled = CLOSING | {"LSQB", "LBRACE", "COMMA", "VBAR", "COLON", "EQUAL", "IN", "FROM"}
    if not m.accepts >= NAMES:
        spelled |= {"AS", "BY", "BEFORE"}
    words += sorted(spelling(terminal) for terminal in m.accepts & spelled)
    if END in m.accepts:
        words.append("the end of the line")
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
