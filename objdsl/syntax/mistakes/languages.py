"""Notation of other languages: characters, operators, keywords, methods."""

from __future__ import annotations

import re
import unicodedata

from lark import Token

from objdsl.diagnostic import Diagnostic, Edit, Fix
from objdsl.ir.ops import REDUCTIONS
from objdsl.source import Span
from objdsl.syntax.foreign import ALIASES, MODULES, translation
from objdsl.syntax.messages import FORMS, expectation, syntax
from objdsl.syntax.mistakes.mistake import (
    ARITHMETIC,
    CLOSED_BY,
    CLOSING,
    FUNCTION_NAMES,
    IF_ELSE,
    NAMES,
    UNKNOWN,
    VALUE_ENDS,
    Mistake,
)
from objdsl.syntax.mistakes.papers import applied

_CHARACTERS = {
    "&": "and", "!": "not", "∧": "and", "∨": "or", "¬": "not", "÷": "/", "∕": "/", "⁄": "/",
    "∗": "*", "⋅": "*", "•": "*", "⊙": "*", "–": "-", "—": "-", "‐": "-", "⩽": "<=", "⩾": ">=",
    "⟨": "(", "⟩": ")", "√": "sqrt", "←": "=", "≔": "=", "≡": "==", "²": "^2", "³": "^3",
}  # fmt: skip
_NO_SIGNS = {
    **dict.fromkeys("∥‖", "a divergence is `k3(pi, ref)`, or `kl(pi, ref)` over the vocabulary"),
    "±": "both bounds are written: `clip(r, 1 - eps, 1 + eps)`",
    "∇": "the gradient is not written: objdsl derives it",
}
_COMMENT = "a comment starts with `#`, and ends with its line"
_LETTERS = "a name consists of the letters a-z and A-Z, Greek letters, digits and `_`"
_SIGNS = {
    "||": "or", "=<": "<=", "=>": ">=", "<>": "!=", "===": "==", "!==": "!=", ":=": "=",
}  # fmt: skip
_PYTHON = {
    "for": "a reduction runs over an index: `sum[t] x`",
    "from": "to start from another objective, write `objective NAME from NAME`",
    "import": "to start from another objective, write `objective NAME from NAME`",
    "is": "to compare, write `==`",
    "lambda": f"to make a function, write `{FORMS['def']}`",
    "return": f"a file ends with its goal: `{FORMS['maximize']}`",
} | dict.fromkeys(
    ("assert", "class", "elif", "print", "raise", "try", "while", "with", "yield"), ""
)


def character(m: Mistake) -> Diagnostic | None:
    if m.here.type != UNKNOWN:
        return None
    char = str(m.here)
    if char == ";":
        return m.diagnostic(
            "a statement ends at the end of its line, without `;`", under="delete this"
        )
    if char == "'" and m.before.type in NAMES and m.adjacent(m.before, m.here):
        help = f"for example `{m.before}_2`"
        return m.diagnostic("a name has no primes", m.before, m.here, help=help)
    if char in "'\"`“”‘’":
        return m.diagnostic("a formula has no strings", help="names are written without quotes")
    if char == "\\":
        return m.diagnostic(
            "a backslash does not continue a line",
            help="put the formula in brackets: inside them line ends are ignored",
        )
    if unicodedata.normalize("NFKD", char)[0] == "E" or char == "ℰ":
        start = m.span(m.here).start
        if spans := applied(m.source, start, start + 1):
            return expectation(*spans)
    if char in _NO_SIGNS:
        return m.diagnostic(f"`{char}` has no meaning here", help=_NO_SIGNS[char])
    if char == "%":
        remainder = "5 percent is `0.05`; a remainder is written `x - n * floor(x / n)`"
        help = remainder if m.at else _COMMENT
        return m.diagnostic("`%` is not an operator", help=help)
    if char == "?":
        return m.diagnostic("`?` has no meaning here", help=IF_ELSE)
    if unicodedata.combining(char):
        bare = m.before if m.before.type in NAMES and m.adjacent(m.before, m.here) else m.here
        name = unicodedata.name(char, "unnamed").lower()
        return m.diagnostic(f"a {name} cannot be part of a name", bare, m.here, help=_LETTERS)
    meant = _CHARACTERS.get(char) or unicodedata.normalize("NFKC", char)
    if meant != char and meant.isascii():
        end = m.span(m.here).end
        doubled = char == "&" and m.source.text.startswith("&", end)
        span = Span(m.source, end - 1, end + doubled)
        return syntax(f"`{span.text}` is written `{meant}`", span)
    if char.isalpha():
        name = unicodedata.name(char, "unnamed").lower()
        plain = unicodedata.normalize("NFKD", char)[0]
        help = f"write `{plain}`" if plain.isascii() else _LETTERS
        return m.diagnostic(f"`{char}` ({name}) cannot be part of a name", help=help)
    return m.diagnostic(f"`{char}` has no meaning here")


def python(m: Mistake) -> Diagnostic | None:
    if m.here == "from":
        word = m.here if m.at == 0 and m.after.type in NAMES else None
    else:
        word = next((word for word in (m.here, m.before) if word in _PYTHON), None)
    if word is None or word == "from" != m.here:
        return None
    return m.diagnostic(
        f"`{word}` is Python, but an objective is a formula", word, help=_PYTHON[str(word)]
    )


def signs(m: Mistake) -> Diagnostic | None:
    """Two adjacent signs that are one operator in other languages."""
    for left, right in ((m.before, m.here), (m.here, m.after)):
        if not m.adjacent(left, right):
            continue
        written = f"{left}{right}"
        if written in _SIGNS:
            return m.diagnostic(f"`{written}` is written `{_SIGNS[written]}`", left, right)
        if written == "//":
            help = "divide by `/`; a comment starts with `#`"
            return m.diagnostic("`//` is not an operator", left, right, help=help)
        if written == "/*":
            return m.diagnostic("`/*` is not an operator", left, right, help=_COMMENT)
        if m.at == 1 and left.type in ARITHMETIC and right == "=":
            name = m.token(0)
            return m.diagnostic(
                "a name is defined once, and keeps its value",
                left,
                right,
                help=f"give the result a name of its own: `{name}_2 = {name} {left} ...`",
            )
    return None


def digits(m: Mistake) -> Diagnostic | None:
    """`4,096` and `4_096`."""
    if m.before.type != "NUMBER" or not m.adjacent(m.before, m.here):
        return None
    comma = m.here.type == "COMMA" and m.adjacent(m.here, m.after)
    if comma and not m.opened and m.after.type == "NUMBER":
        return m.diagnostic(
            "a number has no commas", m.before, m.after, under="write the digits alone"
        )
    if m.here.type in NAMES and m.here.startswith("_") and m.here.strip("_").isdigit():
        return m.diagnostic("a number has no `_`", m.before, m.here, under="write the digits alone")
    return None


def member(m: Mistake) -> Diagnostic | None:
    """`torch.min(a, b)`, `x.mean(-1)`, `x.detach()`."""
    if m.here.type != UNKNOWN or m.here != "." or m.before.type not in VALUE_ENDS:
        return None
    start = m.span(m.here).start
    chain = re.compile(r"(?:\.\w+)+").match(m.source.text, start)
    if chain is None:
        return None
    word = chain[0].rsplit(".", 1)[-1]
    if str(m.before) in MODULES:
        first = m.span(m.before).start
        whole = Span(m.source, first, chain.end())
        known = word in (*FUNCTION_NAMES, *REDUCTIONS, "clip")
        help = translation(word) or "" if not known else f"the function is called `{word}`"
        if word == "where":
            help = IF_ELSE
        return syntax("an objective is a formula: there are no modules", whole, help=help)
    help = "functions and reductions come first: `exp(x)`, `mean[t] x`"
    if word in REDUCTIONS:
        help = f"a reduction comes first, and names its index: `{word}[t] x`, `{word}[i] x`"
    elif ALIASES.get(word) == "sg":
        help = "a value without its gradient is `sg(x)`"
    elif meaning := translation(word):
        help = meaning
    return syntax(
        "a value has no attributes and no methods", Span(m.source, start, chain.end()), help=help
    )


def where(m: Mistake) -> Diagnostic | None:
    """`where(c, a, b)`."""
    if str(m.here) != "where" or m.after.type != "LPAR":
        return None
    closing = m.closing(m.at + 1)
    message = "write a choice as `a if condition else b`"
    choices: tuple[Fix, ...] = ()
    if closing is not None:
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in m.tokens[m.at + 2 : closing]:
            depth += token.type in CLOSED_BY
            depth -= token.type in CLOSING
            if token.type == "COMMA" and not depth:
                parts.append([])
            else:
                parts[-1].append(token)
        if len(parts) == 3 and all(parts):
            condition, a, b = (m.span(part[0], part[-1]).text for part in parts)
            text = f"({a} if {condition} else {b})"
            whole = m.span(m.here, m.token(closing))
            choices = (Fix(f"`{' '.join(text.split())}`", (Edit(whole, text),)),)
    last = m.token(closing if closing is not None else m.at)
    return m.diagnostic(message, m.here, last, choices=choices)
