"""The places of values in a JSON text."""

from __future__ import annotations

import json
import re

from objdsl.source import Source, Span

Path = tuple[str | int, ...]
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # of any length
_SPACE = re.compile(r"[ \t\n\r]*")


def place(source: Source, path: Path) -> Span:
    """The characters of a value in a valid JSON."""
    return _key_and_value(source, path)[1]


def key(source: Source, path: Path) -> Span:
    """The characters of the key that a value has in its object."""
    return _key_and_value(source, path)[0]


def _key_and_value(source: Source, path: Path) -> tuple[Span, Span]:
    """The last key of a path, and its value; for a missing value, the object that lacks it."""
    text = source.text
    at = _space(text, 0)
    name = whole = _value(source, at)
    for step in path:
        at = _space(text, at + 1)
        if isinstance(step, int):
            for _ in range(step):
                at = _next(text, _value(source, at).end)
        else:
            while text[at] != "}" and (name := _value(source, at)).text != json.dumps(step):
                colon = _space(text, name.end)
                at = _next(text, _value(source, _space(text, colon + 1)).end)
            if text[at] == "}":
                return whole, whole
            at = _space(text, _space(text, name.end) + 1)
        whole = _value(source, at)
    return name, whole


def _value(source: Source, start: int) -> Span:
    return Span(source, start, _DECODER.raw_decode(source.text, start)[1])


def _next(text: str, end: int) -> int:
    """The start of the next item, after the comma; otherwise the closing bracket."""
    at = _space(text, end)
    return _space(text, at + 1) if text[at] == "," else at


def _space(text: str, at: int) -> int:
    blanks = _SPACE.match(text, at)
    assert blanks is not None
    return blanks.end()


def at_line(source: Source, place: str) -> Span:
    """`3 column 7`, as in the parser's message; the parser counts bytes."""
    line, _, column = place.partition(" column ")
    lines = source.text.split("\n")
    before = sum(len(text) + 1 for text in lines[: int(line) - 1])
    start = min(before + max(int(column) - 1, 0), max(len(source.text) - 1, 0))
    return Span(source, start, start + 1)
