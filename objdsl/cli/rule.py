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
@click.option("--all", "every", is_flag=True, help="Show all rules.")
@click.option(
    "--format", "--output-format", "format_", type=click.Choice(["text", "json"]), default="text",
    show_default=True, help="Output format: text is for people, json for programs.",
)  # fmt: skip
def rule(name: str | None, every: bool, format_: str) -> None:
    """Explain a rule of the checker; without NAME, list them. NAME may be a code."""
    if name is not None and every:
        raise click.UsageError("--all shows every rule: drop either the name or --all")
    selected = pages() if name is None else (_find(name),)
    if format_ == "json":
        data(json.dumps([_plain(page) for page in selected], indent=2))
    elif name is None and not every:
        _list(selected)
    else:
        for page in selected:
            _show(page)


def _find(name: str) -> Page:
    for page in pages():
        if name in (page.name, page.code):
            return page
    guess = near(name, [known for page in pages() for known in (page.name, page.code)])
    hint = f"; did you mean `{guess}`?" if guess else ""
    raise click.UsageError(f"there is no rule `{name}`{hint}")


def _plain(page: Page) -> dict[str, str]:
    return {
        "name": page.name,
        "code": page.code,
        "severity": str(page.severity),
        "claim": str(page.claim),
        "summary": page.summary,
        "page": page.doc,
    }


def _list(pages: Sequence[Page]) -> None:
    width = max(len(page.name) for page in pages)
    for page in pages:
        say(f"{page.code}  {page.name:<{width}}  {page.severity:<7}  {page.summary}")


def _show(page: Page) -> None:
    if not has_color(sys.stdout):
        say(page.page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(100, Console().width)).print(Markdown(page.page))
