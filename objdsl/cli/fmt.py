"""`objdsl fmt`: the canonical layout."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from objdsl.cli.inputs import AS_TEXT, STDIN, expand, is_ir, text
from objdsl.cli.output import difference, plural, say, show, verbatim, write
from objdsl.diagnostic import Diagnostic
from objdsl.errors import ObjectiveError


@click.command(epilog="Example: objdsl fmt --check objectives/")
@click.argument("files", nargs=-1, metavar="[FILES]...")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
def fmt(files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Format objectives in the canonical layout; comments are kept.

    FILES are files, folders, or `-` (standard input to standard output); the default is the current
    folder. An objective in JSON on standard input is translated into the language.
    """
    from objdsl.driver import layout
    from objdsl.syntax.read import read

    changed = unchanged = 0
    errors: list[Diagnostic] = []
    for name in expand(files):
        if is_ir(name):
            raise click.UsageError(AS_TEXT.format(name))
        try:
            # Always a file, never a gallery entry, since it is written to.
            source = text(name) if name == STDIN else read(Path(name).expanduser())
            new = layout(source)
        except ObjectiveError as error:
            errors += error.diagnostics
            continue
        is_same = new == source.text
        changed += not is_same
        unchanged += is_same
        if diff:
            verbatim(difference(source, new))
        elif check:
            if not is_same:
                say(f"would reformat {source.name}")
        elif name == STDIN:
            verbatim(new)
        elif not is_same:
            write(Path(name).expanduser(), new)
    if files != (STDIN,):
        would = "would be " if check or diff else ""
        say(
            f"{plural(changed, 'file')} {would}reformatted, {unchanged} left as "
            f"{'it is' if unchanged == 1 else 'they are'}",
            err=True,
        )
    if errors:
        show(errors)
        sys.exit(2)
    sys.exit(1 if changed and (check or diff) else 0)
