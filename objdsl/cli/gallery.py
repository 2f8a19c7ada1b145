"""`objdsl gallery`: the objectives that come with objdsl."""

from __future__ import annotations

import os
from pathlib import Path

import click

from objdsl.cli.inputs import text
from objdsl.cli.output import say, verbatim, write
from objdsl.objectives import gallery as entries
from objdsl.objectives.gallery import SUFFIX


@click.group(
    invoke_without_command=True,
    epilog="Example: objdsl gallery cp grpo && objdsl check grpo.obj",
)
@click.pass_context
def gallery(ctx: click.Context) -> None:
    """List, show and copy the objectives that come with objdsl."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@gallery.command()
def ls() -> None:
    """List the objectives by group, each with its paper."""
    width = max(map(len, entries.names()))
    for group, names in entries.groups().items():
        say(f"{group}:")
        for name in names:
            say(f"  {name:{width}}  {entries.heading(entries.bundled(name))}")


@gallery.command()
@click.argument("name")
def show(name: str) -> None:
    """Print an objective. NAME `std` is the prelude."""
    verbatim(text(name).text)


@gallery.command()
@click.argument("name")
@click.argument("to", required=False)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def cp(name: str, to: str | None, force: bool) -> None:
    """Copy an objective here, or to the file or folder TO."""
    source = text(name)
    file_name = name.rsplit("/", 1)[-1].removesuffix(SUFFIX) + SUFFIX
    target = Path(to or file_name)
    if target.is_dir() or (to and to.endswith(("/", os.sep))):
        target /= file_name
    if target.exists() and not force:
        raise click.UsageError(f"{target} exists; --force replaces it")
    write(target, source.text)
    say(f"wrote {target}")
