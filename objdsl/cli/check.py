"""`objdsl check`: is it an objective, and what is there to say about it?"""

from __future__ import annotations

import sys

import click

from objdsl.cli.inputs import expand, text
from objdsl.cli.output import plural, show, summary
from objdsl.diagnostic import Diagnostic, ObjectiveError


@click.command(epilog="Example: objdsl check grpo.obj")
@click.argument("files", nargs=-1, metavar="[FILES]...")
def check(files: tuple[str, ...]) -> None:
    """Check objectives: syntax, names, indices. Exit 0 if clean, 2 if one is not an objective.

    FILES are files, folders, names of the gallery, or `-` for standard input; without any, the
    current folder.
    """
    from objdsl.driver import compile_source

    names = expand(files)
    errors: list[Diagnostic] = []
    for name in names:
        try:
            compile_source(text(name))
        except ObjectiveError as error:
            errors += error.diagnostics
    if errors:
        show(errors, err=False)
        click.echo(summary(errors, len(names)))
        sys.exit(2)
    click.echo(f"{plural(len(names), 'file')} checked, nothing to report")
