"""The pipeline, one function a stage. The command line, the Python face and the editor call these."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from objdsl.diagnostic import Diagnostic, ObjectiveError, Severity, near
from objdsl.elaborate import elaborate
from objdsl.ir.objective import Objective
from objdsl.source import Source, Span
from objdsl.syntax import tree
from objdsl.syntax.parse import parse
from objdsl.syntax.read import read

PRELUDE = "std"


def gallery() -> list[str]:
    """The names of the objectives that come with objdsl."""
    names = (entry.name for entry in files("objdsl.objectives").iterdir())
    return sorted(n.removesuffix(".obj") for n in names if n.endswith(".obj") and n != "std.obj")


def find(name: str | Path) -> Source:
    """The text of an objective: a path, or a name of the gallery.

    Raises:
        FileNotFoundError: there is no such file and no such name; the message has a near one.
        ObjectiveError: the file is not text, or not an objective at all.
    """
    path = Path(name)
    if path.suffix == ".obj" or path.exists():
        return read(path)
    bundled = files("objdsl.objectives") / f"{name}.obj"
    if bundled.is_file():
        return Source(f"{name}.obj", bundled.read_text(encoding="utf-8"))
    guess = near(str(name), gallery())
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise FileNotFoundError(f"no file and no gallery entry {str(name)!r}{hint}")


@cache
def prelude() -> tree.File:
    """The parsed `std.obj`."""
    text = (files("objdsl.objectives") / f"{PRELUDE}.obj").read_text(encoding="utf-8")
    return parse(Source(f"{PRELUDE}.obj", text))


def compile_source(source: Source) -> Objective:
    """The formula of a text.

    Raises:
        ObjectiveError: with every error that the text holds.
    """
    return elaborate(parse(source), prelude(), _finder(source))


def _finder(source: Source):  # type: ignore[no-untyped-def]
    """Looks `from NAME` up beside the file first, then in the gallery."""

    def base(name: str, span: Span) -> tree.File:
        beside = Path(source.name).parent / f"{name}.obj"
        try:
            found = read(beside) if beside.is_file() else find(name)
        except FileNotFoundError:
            guess = near(name, gallery())
            raise ObjectiveError(
                [
                    Diagnostic(
                        "unknown-objective",
                        "OBJ914",
                        Severity.ERROR,
                        f"there is no objective `{name}`",
                        span,
                        help=f"did you mean `{guess}`?"
                        if guess
                        else f"looked for {name}.obj beside this file, and in the gallery",
                    )
                ]
            ) from None
        return parse(found)

    return base
