"""What is wrong with a text, said to a person: one sentence, the place, and what was expected."""

from __future__ import annotations

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from objdsl.diagnostic import Diagnostic, Severity
from objdsl.source import Source, Span
from objdsl.syntax.split import DEEPEST, Piece


def _syntax(message: str, span: Span, under: str = "", help: str = "") -> Diagnostic:
    return Diagnostic("syntax", "OBJ900", Severity.ERROR, message, span, under=under, help=help)


def empty(source: Source) -> Diagnostic:
    return _syntax("the file holds no statement", Span(source, 0, 0))


def too_deep(span: Span) -> Diagnostic:
    return _syntax(f"nested deeper than {DEEPEST}", span)


def too_long(span: Span, longest: int) -> Diagnostic:
    return _syntax(f"statement longer than {longest}", span)


def equal_in_binder(span: Span) -> Diagnostic:
    return _syntax("`==` cannot stand in a binder", span)


def out_of_range(span: Span) -> Diagnostic:
    return _syntax(f"`{span.text}` is out of the range of numbers", span)


def not_a_layer(span: Span) -> Diagnostic:
    return _syntax("a layer is a whole number", span)


def explain(source: Source, piece: Piece, error: UnexpectedInput) -> Diagnostic:
    offset = piece.start + (error.pos_in_stream or 0)
    return _syntax(f"unexpected text", Span(source, offset, offset + 1))
