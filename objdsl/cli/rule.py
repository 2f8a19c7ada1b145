"""`objdsl rule`: what a rule finds, why, and what to do instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from objdsl.cli.output import data, has_color, say
from objdsl.codes import Page
from objdsl.diagnostic import near
from objdsl.lint.run import pages


@click.command(epilog="Example: objdsl rule length-normalisation")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option(
    "--format", "--output-format", "format_", type=click.Choice(["text", "json"]), default="text",
    show_default=True, help="For people, or for programs.",
)  # fmt: skip
def rule(name: str | None, every: bool, format_: str) -> None:
    """Explain a rule of the checker; without NAME, list them. NAME may be a code."""
    if name is not None and every:
        raise click.UsageError("--all shows every rule: leave the name out, or --all")
    found = pages() if name is None else (_find(name),)
    if format_ == "json":
        data(json.dumps([_plain(one) for one in found], indent=2))
    elif name is None and not every:
        _list(found)
    else:
        for one in found:
            _show(one)


def _find(name: str) -> Page:
    for one in pages():
        if name in (one.name, one.code):
            return one
    guess = near(name, [known for one in pages() for known in (one.name, one.code)])
    hint = f"; did you mean `{guess}`?" if guess else ""
    raise click.UsageError(f"there is no rule `{name}`{hint}")


def _plain(one: Page) -> dict[str, str]:
    return {
        "name": one.name,
        "code": one.code,
        "severity": str(one.severity),
        "claim": str(one.claim),
        "summary": one.summary,
        "page": one.doc,
    }


def _list(found: Sequence[Page]) -> None:
    width = max(len(one.name) for one in found)
    for one in found:
        say(f"{one.code}  {one.name:<{width}}  {one.severity:<7}  {one.summary}")


def _show(one: Page) -> None:
    if not has_color(sys.stdout):
        say(one.page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(100, Console().width)).print(Markdown(one.page))
