"""Text to statements: a statement ends at the end of its line, unless a bracket is open."""

from __future__ import annotations

import re
from collections.abc import Iterator

from objdsl.frozen import dataclass
from objdsl.source import Source, Span
from objdsl.syntax.tree import Comment

# The deepest nesting that is read. A formula of a paper needs about ten; the passes that follow
# are recursive, and this keeps them far from the limits of the machine.
DEEPEST = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one statement, from its first character to its last.

    `unclosed` has the places of the brackets that are still open at its end, `too_deep` that of a
    bracket beyond the deepest nesting that is read.
    """

    start: int
    end: int
    unclosed: tuple[int, ...]
    too_deep: int | None


_MARK = re.compile(r"\n|#[^\n]*|[(\[{]|[)\]}]|[^\s#()\[\]{}]+")

# Starts of a statement even if a bracket is open: the bracket is the mistake. A keyword never
# occurs inside an expression; `name =` does, by mistake, in `clip(r, lo=1)`, but a line of
# an argument list is indented.
_KEYWORD = re.compile(
    r"[ \t]*(?:(?:objective|param|policy|given|def|sample|keep|report|maximize|minimize)\b"
    r"|(?:state|learn)[ \t]+[^\W\d]\w*[ \t]*(?:=(?!=)|\[))"
)
_BINDING = re.compile(r"([ \t]*)[^\W\d]\w*[ \t]*=(?!=)")


def split(source: Source) -> tuple[tuple[Piece, ...], tuple[Comment, ...]]:
    """The statements and the comments of a text, each in order."""
    comments: list[Comment] = []
    pieces = tuple(_pieces(source, comments))
    return pieces, tuple(comments)


def _pieces(source: Source, comments: list[Comment]) -> Iterator[Piece]:
    text = source.text
    opened: list[int] = []
    too_deep: int | None = None
    start = end = indentation = -1  # of the statement being read; -1 before its first character
    line_start = 0
    line_is_empty = True
    for mark in _MARK.finditer(text):
        first = mark[0][0]
        if first == "#":
            span = Span(source, mark.start(), mark.start() + len(mark[0].rstrip()))
            comments.append(Comment(_comment_text(span.text), line_is_empty, span))
        elif first == "\n":
            line_start, line_is_empty = mark.end(), True
            if start >= 0 and (not opened or _starts_statement(text, line_start, indentation)):
                yield Piece(start, end, tuple(opened), too_deep)
                opened, too_deep, start = [], None, -1
        else:
            line_is_empty = False
            end = mark.end()
            if start < 0:
                start, indentation = mark.start(), mark.start() - line_start
            if first in "([{":
                opened.append(mark.start())
                if len(opened) > DEEPEST and too_deep is None:
                    too_deep = mark.start()
            elif first in ")]}" and opened:
                opened.pop()
    if start >= 0:
        yield Piece(start, end, tuple(opened), too_deep)


def _starts_statement(text: str, offset: int, indentation: int) -> bool:
    """Whether the line at `offset` starts a statement, whatever bracket is open before it."""
    if _KEYWORD.match(text, offset):
        return True
    binding = _BINDING.match(text, offset)
    return binding is not None and len(binding[1]) <= indentation


def _comment_text(comment: str) -> str:
    """`# text` is `text`; what is indented or ruled further (`#   a`, `####`) keeps that."""
    return comment[1:].removeprefix(" ")
