"""Notation of papers: expectations, divergences, LaTeX, subscripts."""

from __future__ import annotations

import re

from objdsl.diagnostic import Diagnostic, Edit, Fix
from objdsl.ir.ops import REDUCTIONS
from objdsl.source import Source, Span
from objdsl.spelling import canonical
from objdsl.syntax.foreign import (
    LATEX,
    is_divergence,
    is_expectation,
    of_the_language,
    translation,
)
from objdsl.syntax.language import FUNCTIONS
from objdsl.syntax.messages import divergence, expectation, syntax
from objdsl.syntax.mistakes.mistake import NAMES, UNKNOWN, Mistake

_SUBSCRIPTS = re.compile(r"(?:_\w*|_?\{[^{}]*\}|\^?[\\*~]|[ \t])*(?=[\[({])")
_OF_TWO = re.compile(r"[\[(]\s*(\w+)\s*(?:\|\|?|∥|‖|,|;)\s*(\w+)\s*[\])]")


def operators(m: Mistake) -> Diagnostic | None:
    """`E[...]` and `KL(p || q)`: an error inside their brackets is not reported."""
    names = [m.tokens[k - 1] for k in m.opened if m.tokens[k - 1].type in NAMES]
    for name in (*names, m.before, m.here):
        if name.type not in NAMES:
            continue
        start = m.span(name).start
        if is_expectation(str(name)) and (spans := applied(m.source, start, start + len(name))):
            return expectation(*spans)
        if is_divergence(str(name)) and (spans := applied(m.source, start, start + len(name))):
            whole, head, _ = spans
            if of_two := _OF_TWO.fullmatch(m.source.text, head.end - 1, whole.end):
                return divergence(whole, of_two[1], of_two[2])
    return None


def latex(m: Mistake) -> Diagnostic | None:
    """`\\frac{a}{b}`, `\\mathbb{E}[x]`."""
    text = m.source.text
    at = m.span(m.here).start
    command = re.compile(r"\\([A-Za-z]+)\*?").match(text, at)
    if m.here.type != UNKNOWN or command is None:
        return None
    word, end = command[1], command.end()
    letter = re.compile(r"\s*\{?\s*(?:E|\\mathbb\{E\})\s*\}?").match(text, end)
    after = letter.end() if letter else end
    expects = word == "E" or (letter and word in ("mathbb", "mathbf", "mathrm", "operatorname"))
    if expects and (spans := applied(m.source, at, after)):
        return expectation(*spans)
    if word == "KL":
        return m.diagnostic("a formula is not LaTeX", help=LATEX["KL"])
    span = Span(m.source, at, end)
    help = LATEX.get(word) or translation(word)
    example = "for example `beta * log(pi / ref)`, `mean[t] x`, `a / b`"
    return syntax(
        "a formula is not LaTeX: names are written without a backslash", span,
        help=f"`\\{word}`: {help}" if help else example,
    )  # fmt: skip


def braces(m: Mistake) -> Diagnostic | None:
    """`r^{2}`."""
    if m.here.type != "LBRACE" or m.before.type != "POWER":
        return None
    closing = m.closing(m.at)
    if closing is None:
        return m.diagnostic("an exponent needs round brackets", help="for example `x^(1 / |y|)`")
    whole = m.span(m.here, m.token(closing))
    inside = whole.text[1:-1].strip()
    plain = inside if re.fullmatch(r"-?[\w.]+", inside) else f"({inside})"
    return m.diagnostic(
        "an exponent has no curly brackets", m.here, m.token(closing),
        choices=(Fix(f"`{m.token(m.at - 2)}^{plain}`", (Edit(whole, plain),)),),
    )  # fmt: skip


def conditioned(m: Mistake) -> Diagnostic | None:
    """`pi_theta(a | s)`."""
    policy = of_the_language(canonical(m.owner))
    if (
        m.here.type != "VBAR"
        or m.bracket.type != "LPAR"
        or policy not in ("pi", "old", "mu", "ref")
    ):
        return None
    closing = m.closing(m.opened[-1])
    last = m.here if closing is None else m.token(closing)
    whole = m.span(m.owner, last)
    choices = (Fix(f"`{policy}`", (Edit(whole, policy),)),) if closing is not None else ()
    return m.diagnostic(
        "the probability of the sampled token needs no arguments", m.owner, last, choices=choices
    )


def indicator(m: Mistake) -> Diagnostic | None:
    """`1[A > 0]`, `1{A > 0}`, `1_{A > 0}`."""
    opens = m.here.type in ("LBRACE", "LSQB") or m.here == "_"
    if m.before != "1" or not opens or not m.adjacent(m.before, m.here):
        return None
    return m.diagnostic(
        "an indicator is a comparison", m.before, m.here, help="write `(A > 0) * x`"
    )


def function_of_braces(m: Mistake) -> Diagnostic | None:
    """`min{a, b}`."""
    function = canonical(m.before)
    if m.here.type != "LBRACE" or function not in FUNCTIONS or not m.adjacent(m.before, m.here):
        return None
    closing = m.closing(m.at)
    last = m.here if closing is None else m.token(closing)
    whole = m.span(m.here, last)
    choices: tuple[Fix, ...] = ()
    if closing is not None:
        text = f"({whole.text[1:-1]})"
        choices = (Fix(f"`{m.before}{text}`", (Edit(whole, text),)),)
    message = f"the arguments of `{function}` stand in round brackets"
    return m.diagnostic(message, m.here, last, choices=choices)


def subscript(m: Mistake) -> Diagnostic | None:
    """`r_{i,t}`."""
    if m.here.type != "LBRACE" or not m.before.endswith("_") or not m.adjacent(m.before, m.here):
        return None
    name = canonical(m.before.rstrip("_"))
    if name in REDUCTIONS:
        index = re.match(r"\{\s*([pitv])\b", m.source.text[m.span(m.here).start :])
        return m.diagnostic(
            f"the index of `{name}` goes in square brackets",
            m.before,
            help=f"it has no limits: `{name}[{index[1] if index else 't'}] x`",
        )
    closing = m.closing(m.at)
    last = m.here if closing is None else m.token(closing)
    words = re.findall(r"\w+", m.span(m.here, last).text)
    policy = of_the_language(canonical("_".join((name, *words))))
    if policy in ("old", "mu", "ref"):
        message = "a policy has a name, and no subscript"
        return m.diagnostic(message, m.before, last, help=f"write `{policy}`")
    return m.diagnostic(
        "a name has no subscripts: indices are implied",
        m.before,
        m.here,
        help=f"write `{name}`",
    )


def applied(source: Source, start: int, end: int) -> tuple[Span, Span, Span] | None:
    """`E_{t}[x]`, where the `E` is the text from `start` to `end`: the whole, the text before `x`,
    and the closing bracket; None if there are no brackets."""
    text = source.text
    subscripts = _SUBSCRIPTS.match(text, end)
    if subscripts is None:
        return None
    opening, depth = subscripts.end(), 0
    for k in range(opening, min(len(text), opening + 4096)):
        depth += text[k] in "([{"
        depth -= text[k] in ")]}"
        if not depth:
            return (
                Span(source, start, k + 1),
                Span(source, start, opening + 1),
                Span(source, k, k + 1),
            )
    return None
