"""`objdsl diff`: the difference between two objectives."""

from __future__ import annotations

import sys

import click

from objdsl import driver
from objdsl.cli.inputs import text
from objdsl.cli.output import say
from objdsl.ir.diff import aligned, renamed
from objdsl.ir.diff import diff as differences
from objdsl.ir.layout import folded


@click.command(epilog="Example: objdsl diff grpo dr_grpo")
@click.argument("a")
@click.argument("b")
def diff(a: str, b: str) -> None:
    """Print the mathematical differences between two objectives.

    A and B are files or gallery names. Definitions are compared by their formulas, parameters by
    their value, domain and place; layout, order and names do not count, and different names for the
    same thing are listed. The exit code is 0 if the objectives are the same, 1 if not.
    """
    left, right = (driver.compile_source(text(name)) for name in (a, b))
    changes = differences(left, right)
    for change in changes:
        if change.left is not None:
            say(folded(f"- {change.left}"), fg="red")
        if change.right is not None:
            say(folded(f"+ {change.right}"), fg="green")
    if not changes:
        say("the same objective")
    for here, there in renamed(left, right).items():
        say(f"{here} is called {there} in the second")
    if changes:
        sides = (left, aligned(left, right)[0])
        same = [(side.used_params, side.sampling, driver.derivatives(side)) for side in sides]
        if same[0] == same[1]:
            say("the gradient is the same")
        sys.exit(1)
