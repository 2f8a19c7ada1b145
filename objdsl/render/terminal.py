"""A diagnostic for a person at a terminal: one sentence, the text it is about, what to do.

error[OBJ900 syntax]: `]` cannot close `(`
 --> grpo.obj:7:13
  |
7 | x = min(a, b]
  |        -    ^ close it by `)`
  |        |
  |        opened here
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from objdsl.diagnostic import Certainty, Diagnostic, Severity
from objdsl.frozen import dataclass
from objdsl.source import STEERS, Source, Span, without_commands

_PLAIN, _BOLD, _BLUE = "", "1", "1;34"  # parameters of the terminal's `ESC [ ... m`
_COLORS = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.NOTE: "1;36"}

_TAB = " " * 4
_CUT = "..."
_CONTEXT = 12  # columns that are kept before the first mark when a line is cut to the width
_NEAR = 4  # characters that are read on either side of a mark, for each column of the width
_MOST_LINES = 4  # of one span, before its middle is left out


def render(diagnostic: Diagnostic, color: bool = False, width: int = 100) -> str:
    """The diagnostic as lines of text, without a line end after the last.

    `width` is in columns. The sentence and the place are never broken: people search for them.
    """
    marks = _marks(diagnostic)
    gutter = max((len(str(mark.line)) for frame in marks.values() for mark in frame), default=0)
    rule = f"{diagnostic.severity}[{diagnostic.code} {diagnostic.name}]"
    rows = [_Row().add(rule, _COLORS[diagnostic.severity]).add(f": {diagnostic.message}", _BOLD)]
    for source, frame in marks.items():
        rows += _frame(source, frame, gutter, width)
    notes = [row for note in _notes(diagnostic) for row in _note(*note, gutter, width)]
    if marks and notes:
        rows.append(_margin(gutter))
    return without_commands("\n".join(row.text(color) for row in rows + notes))


# --- what stands under the frame -----------------------------------------------------------------


def _notes(diagnostic: Diagnostic) -> Iterator[tuple[str, str]]:
    """Consequence, remedy, when it is right, where to read on: a title and a text each."""
    if diagnostic.value and diagnostic.gradient:
        yield "value", f"{diagnostic.value}     gradient: {diagnostic.gradient}"
    elif diagnostic.value:
        yield "value", diagnostic.value
    elif diagnostic.gradient:
        yield "gradient", diagnostic.gradient
    if diagnostic.weight:
        yield "weight", diagnostic.weight
    if diagnostic.consequence:
        yield "consequence", diagnostic.consequence
    if diagnostic.certainty is Certainty.LIKELY:
        yield "certainty", "likely, not proven"
    if diagnostic.help:
        yield "help", diagnostic.help
    if diagnostic.fix is not None:
        yield "fix", f"{diagnostic.fix.title}   (objdsl check --diff shows the edit)"
    for k, choice in enumerate(diagnostic.choices):
        yield "or" if k else "either" if len(diagnostic.choices) > 1 else "write", choice.title
    if diagnostic.fine_if:
        ignore = f"# objdsl: ignore[{diagnostic.name}] why"
        yield "fine if", f"{diagnostic.fine_if}; then write `{ignore}`"
    # The errors of the language itself, the 900s, have no further explanation.
    if not diagnostic.code.startswith("OBJ9"):
        yield "more", f"objdsl rule {diagnostic.name}"


def _note(title: str, text: str, gutter: int, width: int) -> Iterator[_Row]:
    head = " " * gutter + " = "
    first, *others = textwrap.wrap(
        f"{title}: {text}",
        max(width - len(head), 40),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    yield _Row().add(head, _BLUE).add(title, _BOLD).add(first[len(title) :])
    for line in others:
        yield _Row().add(" " * len(head) + line)


# --- the frame: lines of the text with marks under them ------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """What underlines one span on one line: its places `start <= k < end`, from 0.

    They are characters of the line, and columns of print once it is known which part of the line
    is shown (`_fit`).
    """

    line: int
    start: int
    end: int
    sign: str
    text: str
    style: str
    follows_cut: bool = False  # lines of the span before this one are left out


def _marks(diagnostic: Diagnostic) -> dict[Source, list[_Mark]]:
    """The marks of a diagnostic by their sources; its own span comes first."""
    marks: dict[Source, list[_Mark]] = {}
    if diagnostic.span is not None:
        style = _COLORS[diagnostic.severity]
        marks[diagnostic.span.source] = [*_lines(diagnostic.span, "^", diagnostic.under, style)]
        for label in diagnostic.labels:
            frame = marks.setdefault(label.span.source, [])
            frame += _lines(label.span, "-", label.text, _BLUE)
    return marks


def _lines(span: Span, sign: str, text: str, style: str) -> Iterator[_Mark]:
    """One mark for each line of a span, without its indentation; the text stands on the last."""
    pieces = span.text.rstrip().split("\n")
    last = len(pieces) - 1
    cut = range(2, last) if last >= _MOST_LINES else range(0)
    for k, piece in enumerate(pieces):
        if k not in cut and (piece or not last):
            offset = 0 if k else span.column - 1
            indentation = len(piece) - len(piece.lstrip()) if k else 0
            yield _Mark(
                line=span.line + k,
                start=offset + indentation,
                end=offset + len(piece.rstrip()),
                sign=sign,
                text=text if k == last else "",
                style=style,
                follows_cut=k - 1 in cut,
            )


def _frame(source: Source, marks: list[_Mark], gutter: int, width: int) -> Iterator[_Row]:
    """The place of the first mark, and every line that holds a mark."""
    arrow = "-->" if marks[0].sign == "^" else ":::"
    place = f" {source.name}:{marks[0].line}:{marks[0].start + 1}"  # as editors count: a tab is one
    yield _Row().add(" " * gutter + arrow, _BLUE).add(place)
    yield _margin(gutter)
    room = max(width - gutter - len(" | "), 4 * _CONTEXT)
    for line in sorted({mark.line for mark in marks}):
        here = [mark for mark in marks if mark.line == line]
        if any(mark.follows_cut for mark in here):
            yield _Row().add(_CUT, _BLUE)
        text, here = _fit(source.line(line), here, room)
        yield _margin(gutter, line).add(f" {text}")
        for row in _under(here, room):
            yield _margin(gutter).add(" ").join(row)


def _fit(line: str, marks: list[_Mark], room: int) -> tuple[str, list[_Mark]]:
    """The part of a line that holds its marks, no wider than `room` columns, and marks on it."""
    line, marks = _near(line, marks, _NEAR * room)
    columns = _columns(line)
    marks = [_placed(mark, columns[mark.start], columns[mark.end]) for mark in marks]
    cells = _cells(line)
    if len(cells) <= room:
        return "".join(cells), marks
    end = max(mark.end for mark in marks)
    start = 0 if end <= room - len(_CUT) else min(mark.start for mark in marks) - _CONTEXT
    start = min(max(start, 0), len(cells) - room)
    shown = cells[start : start + room]
    if start > 0:
        shown[: len(_CUT)] = _CUT
    if start + room < len(cells):
        shown[-len(_CUT) :] = _CUT

    def shifted(mark: _Mark) -> _Mark:
        begin = min(max(mark.start - start, 0), room - 1)
        return _placed(mark, begin, min(mark.end - start, room))

    return "".join(shown), [shifted(mark) for mark in marks]


def _near(line: str, marks: list[_Mark], reach: int) -> tuple[str, list[_Mark]]:
    """At most `reach` characters on either side of where the first mark begins.

    A line may be as long as a file, and findings on it as many: none is to read the whole of it.
    """
    first = min(mark.start for mark in marks)
    begin, end = max(first - reach, 0), min(first + reach, len(line))
    if begin == 0 and end == len(line):
        return line, marks

    def within(place: int) -> int:
        return min(max(place - begin, 0), end - begin)

    return line[begin:end], [
        replace(mark, start=within(mark.start), end=within(mark.end)) for mark in marks
    ]


def _placed(mark: _Mark, start: int, end: int) -> _Mark:
    """A mark at other places; an empty one is a place, too."""
    return replace(mark, start=start, end=max(end, start + 1))


def _under(marks: list[_Mark], room: int) -> Iterator[_Row]:
    """The signs under a line, and the texts: beside the last sign, and hanging from the others."""
    signs = _Row()
    for mark in sorted(marks, key=lambda mark: mark.start - mark.end):  # short ones on top
        signs.put(mark.start, mark.sign * (mark.end - mark.start), mark.style)
    texts = sorted((mark for mark in marks if mark.text), key=lambda mark: (mark.start, mark.end))
    if texts:
        rightmost = max(marks, key=lambda mark: mark.end)
        beside = texts[-1]
        if beside is rightmost and beside.end + 1 + len(beside.text) <= room:
            signs.put(beside.end + 1, beside.text, beside.style)
            texts.pop()
    yield signs
    if texts:
        yield _bars(texts)
    while texts:
        hanging = texts.pop()
        start = min(hanging.start, max(room - len(hanging.text), 0))
        bars = [mark for mark in texts if mark.start < start]
        yield _bars(bars).put(start, hanging.text, hanging.style)


def _bars(marks: list[_Mark]) -> _Row:
    row = _Row()
    for mark in marks:
        row.put(mark.start, "|", mark.style)
    return row


# --- rows of print -------------------------------------------------------------------------------


class _Row:
    """A line of print: a character and a style for each column."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str]] = []

    def put(self, column: int, text: str, style: str = _PLAIN) -> _Row:
        """Write over what stands from `column` on."""
        cells = [(cell, style) for cell in _cells(text)]
        self.cells += [(" ", _PLAIN)] * (column - len(self.cells))
        self.cells[column : column + len(cells)] = cells
        return self

    def add(self, text: str, style: str = _PLAIN) -> _Row:
        return self.put(len(self.cells), text, style)

    def join(self, other: _Row) -> _Row:
        self.cells += other.cells
        return self

    def text(self, color: bool) -> str:
        if not color:
            return "".join(cell for cell, _ in self.cells).rstrip()
        return "".join(
            _paint("".join(cell for cell, _ in run), style)
            for style, run in itertools.groupby(self.cells, key=lambda cell: cell[1])
        ).rstrip()


def _margin(gutter: int, line: int | None = None) -> _Row:
    return _Row().add(f"{'' if line is None else line:>{gutter}} |", _BLUE)


def _paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style else text


def _cells(text: str) -> list[str]:
    """The characters that a terminal shows in each column: wide characters take two, accents none.

    Characters that would steer the terminal are shown as a replacement character.
    """
    if text.isascii() and text.isprintable():
        return list(text)
    cells: list[str] = []
    for char in text:
        if char == "\t":
            cells += _TAB
        elif char == "\n" or STEERS.match(char):
            cells.append("\N{REPLACEMENT CHARACTER}")
        elif unicodedata.category(char) in ("Mn", "Me") and cells:
            cells[-1] += char
        elif unicodedata.east_asian_width(char) in "WF":
            cells += [char, ""]
        else:
            cells.append(char)
    return cells


def _columns(text: str) -> Sequence[int]:
    """The column at which each character of a line is shown, and the column after the last."""
    if text.isascii() and text.isprintable():
        return range(len(text) + 1)
    widths = (len(_cells(" " + char)) - 1 for char in text)
    return [*itertools.accumulate(widths, initial=0)]
