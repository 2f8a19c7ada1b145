"""The options of commands that take a loss in Python."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable
from typing import Any

import click

LIKE = ("torch", "verl", "trl", "tinker")


def like_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--like`, `--advantages` and `--pass`."""
    for option in (
        click.option(
            "--pass",
            "passed",
            multiple=True,
            metavar="NAME=X",
            help="An additional argument of a Python function, or a setting of verl's actor.",
        ),
        click.option(
            "--advantages",
            metavar="OBJECTIVE",
            help="Objective whose `A` is passed to a Python function as advantages (default: the "
            "objective it is compared with, or grpo).",
        ),
        click.option(
            "--like",
            type=click.Choice(LIKE),
            default="torch",
            show_default=True,
            help="How a Python function is called; docs/compare.md describes each.",
        ),
    ):
        command = option(command)
    return command


def passed_settings(passed: tuple[str, ...]) -> dict[str, Any]:
    """`--pass beta=0.1 --pass loss_agg_mode=token-sum`: numbers, and else strings."""
    settings: dict[str, Any] = {}
    for setting in passed:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not name or not equals:
            raise click.UsageError(f"write {setting!r} as NAME=X")
        try:
            settings[name] = literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings
