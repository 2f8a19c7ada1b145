"""Findings on the terminal."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import click

from objdsl.diagnostic import Diagnostic, Severity
from objdsl.errors import ObjdslError
from objdsl.files import replace_text
from objdsl.source import Source, visible, without_commands

# Nobody reads more than this; the summary says how many more there are.
_MOST = 20
# One of these is set where a runner (GitHub, Azure, TeamCity) reads what is printed.
_RUNNERS = ("GITHUB_ACTIONS", "TF_BUILD", "TEAMCITY_VERSION")


def show(diagnostics: Sequence[Diagnostic], *, err: bool = True, most: int = _MOST) -> None:
    """Print findings for people: the first `most` in full, then the number of the others."""
    if not diagnostics:
        return
    from objdsl.render.terminal import render

    stream = sys.stderr if err else sys.stdout
    color = has_color(stream)
    width = shutil.get_terminal_size((100, 24)).columns
    for diagnostic in diagnostics[:most]:
        click.echo(render(diagnostic, color=color, width=width) + "\n", file=stream, color=color)
    if len(diagnostics) > most:
        say(f"... and {len(diagnostics) - most} more\n", err=err)


def say(text: str = "", *, err: bool = False, nl: bool = True, fg: str | None = None) -> None:
    """Print a text for people, or for programs that read it line by line.

    It may contain file names and pieces of their text: control characters, and commands for a CI
    runner, are escaped.

    Args:
        fg: a colour, where the stream shows colours.
    """
    color = has_color(sys.stderr if err else sys.stdout)
    click.secho(visible(text), err=err, nl=nl, fg=fg if color else None, color=color)


def verbatim(text: str, *, color: bool | None = None) -> None:
    """Print a text as it is, for a file or a program; without commands where a runner reads it."""
    text = without_commands(text) if _is_read_by_runner(sys.stdout) else text
    click.echo(text, nl=False, color=color)


def data(text: str) -> None:
    """Print JSON. It stays what it is, and holds no command: a `#` in a string can be escaped."""
    click.echo(_escaped(text), nl=not text.endswith("\n"))


def annotate(text: str) -> None:
    """Print commands for GitHub's runner, whose texts hold no others."""
    click.echo(text, nl=False)


def _escaped(json: str) -> str:
    return json.replace("##", r"#\u0023")


def _is_read_by_runner(stream: TextIO) -> bool:
    """Whether what goes to `stream` may end in the log of a CI; what goes into a file does not."""
    if not any(os.environ.get(name) for name in _RUNNERS):
        return False
    try:
        return not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return True


def has_color(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`; NO_COLOR and FORCE_COLOR decide before it does."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def difference(old: Source, new: str) -> str:
    """The unified diff between two texts, as `patch` reads it."""
    name = visible(old.name).replace("\n", "\N{REPLACEMENT CHARACTER}")
    before, after = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old.text, new))
    lines = difflib.unified_diff(before, after, name, name)
    cut = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + cut for line in lines)


def summary(diagnostics: Iterable[Diagnostic], files: int) -> str:
    """`2 errors and 1 warning in 3 files`."""
    severities = [diagnostic.severity for diagnostic in diagnostics]
    counts = [plural(n, str(kind)) for kind in Severity if (n := severities.count(kind))]
    total = " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
    return f"{total or 'nothing to report'} in {plural(files, 'file')}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """`1 fix`, `2 fixes`; without `nouns` an s is added."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


class WriteError(ObjdslError, click.ClickException):
    """A file could not be written."""

    exit_code = 2


def write(path: Path, text: str) -> None:
    """Replace the content of a file; if that fails, the old content stays.

    Raises WriteError if the file cannot be written.
    """
    try:
        replace_text(path, text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WriteError(f"cannot write {path}: {reason}; it is left as it was") from None


def code(text: str, language: str) -> None:
    """Print a text, with colours for its language where the standard output shows colours."""
    text = _escaped(text) if language == "json" else text
    color = has_color(sys.stdout)
    if color:
        from pygments import highlight
        from pygments.formatters import TerminalFormatter
        from pygments.lexers import get_lexer_by_name

        text = highlight(text, get_lexer_by_name(language), TerminalFormatter())
    verbatim(text, color=color)
