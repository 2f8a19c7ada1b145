"""Lines of emitted Python, cut where a person would cut them."""

from __future__ import annotations

import re
from collections.abc import Iterator

OPEN, CLOSE = "([{", ")]}"
STEP = "    "


def wrap(line: str, width: int) -> list[str]:
    """A statement, or an item of a display, as lines of at most `width` columns where it can.

    A sum is cut before its signs, in parentheses; anything else is opened at its widest
    brackets, whose inside stands on a line of its own, or on one for each argument.
    """
    if len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    head, text = _assigned(line.strip())
    terms = list(_cut(text, re.compile(r" (?=[-+] )")))
    if head and len(terms) > 1:
        lines = [indent + head + "("]
        for term in terms:
            lines += wrap(indent + STEP + term, width)
        return [*lines, indent + ")"]
    start, end = _widest(text)
    if end - start <= 1:
        return [line]
    inside = text[start + 1 : end]
    lines = [indent + head + text[: start + 1]]
    if len(indent + STEP + inside) <= width:
        lines.append(indent + STEP + inside)
    else:
        arguments = list(_cut(inside, re.compile(r",(?= )")))
        comma = "," if len(arguments) > 1 else ""
        for argument in arguments:
            lines += wrap(indent + STEP + argument.strip() + comma, width)
    return [*lines, indent + text[end:]]


def _assigned(text: str) -> tuple[str, str]:
    """`name = `, or `return `, and the expression after it."""
    if match := re.match(r"\w+ = |return ", text):
        return match.group(), text[match.end() :]
    return "", text


def _cut(text: str, at: re.Pattern[str]) -> Iterator[str]:
    """The parts of an expression between the places outside all brackets."""
    depth = start = 0
    for k, letter in enumerate(text):
        depth += (letter in OPEN) - (letter in CLOSE)
        if depth == 0 and k and (match := at.match(text, k)):
            yield text[start:k]
            start = match.end()
    yield text[start:]


def _widest(text: str) -> tuple[int, int]:
    """The start and the end of the widest of the outermost brackets."""
    depth = opened = 0
    best = (0, 0)
    for k, letter in enumerate(text):
        if letter in OPEN:
            opened = opened if depth else k
            depth += 1
        elif letter in CLOSE:
            depth -= 1
            if depth == 0 and k - opened > best[1] - best[0]:
                best = (opened, k)
    return best
