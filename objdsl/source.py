"""Text and positions in it, to which every diagnostic points."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property

from objdsl.frozen import dataclass

# Control and format characters, surrogates, line and paragraph separators: the Unicode categories
# Cc, Cf, Cs, Zl and Zp. They steer a terminal or an editor, and show nothing themselves.
_STEERING = (
    "\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
STEERS = re.compile(f"(?![\t\n])[{_STEERING}]")
"""A character that steers what prints it, tabs and line ends aside."""

# What the runner of a CI takes for a command in whatever a program prints: GitHub `::name` where a
# line begins and `##[name]` anywhere in it, Azure and TeamCity `##vso[` and `##teamcity[`.
_COMMAND = re.compile(r"((?:^|\r)\s*:):(?=\w)|(#)#(?=\w*\[)", re.MULTILINE)


def visible(text: str) -> str:
    """A text without control characters, and without commands for the runner of a CI: those become
    the replacement character. Lines and tabs stay."""
    return without_commands(STEERS.sub("\N{REPLACEMENT CHARACTER}", text))


def without_commands(text: str) -> str:
    """A text of the same length in which no runner of a CI sees a command."""
    return _COMMAND.sub("\\1\\2\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True)
class Source:
    """A text with a name for messages (a path, or `<string>`)."""

    name: str
    text: str

    @cached_property
    def _line_starts(self) -> tuple[int, ...]:
        return (0, *(k + 1 for k, char in enumerate(self.text) if char == "\n"))

    def position(self, offset: int) -> tuple[int, int]:
        """The line and the column of a character, both counted from 1."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of line `number` (counted from 1), without its line end."""
        start = self._line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start:] if end < 0 else self.text[start:end]


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start <= k < end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    def to(self, other: Span) -> Span:
        """From the first character of this span to the last of `other`."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))
