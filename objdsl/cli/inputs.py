"""The inputs that the FILES of a command name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from objdsl.objectives.gallery import IR_SUFFIX, SUFFIX
from objdsl.source import Source

STDIN = "-"
AS_TEXT = "{} is JSON, and is not rewritten: `objdsl fmt - < FILE` prints it as text"


def expand(files: tuple[str, ...]) -> list[str]:
    """The files and gallery names to work on; folders become the `.obj` files below them.

    Without FILES it is the current folder. Raises UsageError where a folder has no such file.
    """
    expanded: list[str] = []
    for name in files or (".",):
        if not os.path.isdir(name):
            expanded.append(name)
            continue
        below = sorted(_below(name))
        if not below:
            raise click.UsageError(f"there is no {SUFFIX} file in {Path(name).resolve()}")
        expanded += below
    return list(dict.fromkeys(expanded))


def _below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        # Hidden folders and virtual environments hold other people's files; `.obj` in `build` is
        # compiled code.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("build", "node_modules")
            and not os.path.exists(os.path.join(parent, name, "pyvenv.cfg"))
        ]
        yield from (os.path.normpath(os.path.join(parent, f)) for f in files if f.endswith(SUFFIX))


def text(name: str) -> Source:
    """The text of a file, of a gallery entry, or of the standard input (`-`).

    Of an objective that is given as JSON it is written in the language.

    Raises:
        UsageError: there is neither a file nor an entry of that name.
        ObjectiveError: the file is not text, or not an objective at all.
    """
    from objdsl import driver

    if name == STDIN:
        return driver.read_stream(sys.stdin.buffer, "<stdin>")
    try:
        return driver.read(name)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from None


def is_ir(name: str) -> bool:
    """Whether a file holds an objective as JSON: its text is derived, and not written back."""
    return Path(name).suffix == IR_SUFFIX


def settings(given: tuple[str, ...]) -> dict[str, float]:
    """`--set eps=0.1 --set beta=0`: hyper-parameters by name.

    Raises UsageError for what is not a name and a number.
    """
    values: dict[str, float] = {}
    for setting in given:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not name or not equals:
            raise click.UsageError(f"write {setting!r} as NAME=X")
        try:
            values[name] = float(value)
        except ValueError:
            raise click.UsageError(f"{name} must be a number, not {value!r}") from None
    return values
