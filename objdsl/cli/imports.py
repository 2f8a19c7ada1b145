"""`objdsl import`: formulas in other notations, as objectives."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from objdsl.cli.inputs import STDIN
from objdsl.cli.output import say, show, verbatim, write


@click.group("import")
def imports() -> None:
    """Turn a formula of a different notation into an objective."""


@imports.command("tex", epilog="Example: objdsl import tex paper.tex -o mine.obj")
@click.argument("file")
@click.option("--name", help="Name of the objective; the default is that of the file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead.")
def tex(file: str, name: str | None, output: Path | None) -> None:
    """Translate a formula in LaTeX, as papers print it.

    FILE is a LaTeX file, of which the displayed equations are read (or all of it, if there are
    none), or `-` for standard input. What the formula leaves open is guessed, with a comment
    beside it; what cannot be read is an error at its place. The output of `objdsl compile --latex`
    gives the objective back.
    """
    from objdsl import driver
    from objdsl.errors import ObjectiveError
    from objdsl.source import Source
    from objdsl.syntax.read import read, read_from
    from objdsl.tex import imported
    from objdsl.tex.names import identifier

    stdin = file == STDIN
    source = read_from(sys.stdin.buffer, "<stdin>") if stdin else read(Path(file).expanduser())
    printed = imported(source, name or ("imported" if stdin else identifier(Path(file).stem)))
    if output is None:
        verbatim(printed)
    else:
        write(output, printed)
        say(f"wrote {output}")
    try:
        driver.compile_source(Source(str(output or "imported.obj"), printed))
    except ObjectiveError as error:
        show(error.diagnostics)
        sys.exit(1)
