"""`objdsl rule`: what a rule finds, why, and what to do instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click

from objdsl.cli.output import has_color
from objdsl.diagnostic import near
from objdsl.lint.rule import Rule
from objdsl.lint.run import registry


@click.command(epilog="Example: objdsl rule length-normalisation")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option(
    "--output-format", "format_", type=click.Choice(["text", "json"]), default="text",
    show_default=True, help="For people, or for programs.",
)  # fmt: skip
def rule(name: str | None, every: bool, format_: str) -> None:
    """Explain a rule of the checker; without NAME, list them. NAME may be a code."""
    rules = registry() if name is None else (_find(name),)
    if format_ == "json":
        click.echo(json.dumps([_plain(one) for one in rules], indent=2))
    elif name is None and not every:
        _list(rules)
    else:
        for one in rules:
            _show(one)


def _find(name: str) -> Rule:
    for one in registry():
        if name in (one.name, one.code):
            return one
    guess = near(name, [known for one in registry() for known in (one.name, one.code)])
    hint = f"; did you mean `{guess}`?" if guess else ""
    raise click.UsageError(f"there is no rule `{name}`{hint}")


def _plain(one: Rule) -> dict[str, str]:
    return {
        "name": one.name,
        "code": one.code,
        "severity": str(one.severity),
        "summary": one.summary,
        "page": one.doc,
    }


def _list(rules: Iterable[Rule]) -> None:
    rules = list(rules)
    width = max(len(one.name) for one in rules)
    for one in rules:
        click.echo(f"{one.code}  {one.name:<{width}}  {one.severity:<7}  {one.summary}")


def _show(one: Rule) -> None:
    if not has_color(sys.stdout):
        click.echo(one.page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(100, Console().width)).print(Markdown(one.page))
