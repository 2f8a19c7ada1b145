"""`objdsl compare`: two losses on the same steps."""

from __future__ import annotations

import sys
from ast import literal_eval
from pathlib import Path
from typing import Any

import click

from objdsl.cli.output import data, say, write

LIKE = ("torch", "verl", "trl", "tinker")


@click.command(epilog="Example: objdsl compare grpo dr_grpo")
@click.argument("a")
@click.argument("b")
@click.option(
    "--like",
    type=click.Choice(LIKE),
    default="torch",
    show_default=True,
    help="How a Python function is called; docs/compare.md describes each.",
)
@click.option(
    "--advantages",
    metavar="OBJECTIVE",
    help="Whose `A` a Python function gets as advantages: by default of the objective beside it.",
)
@click.option(
    "--pass",
    "passed",
    multiple=True,
    metavar="NAME=X",
    help="Another argument of the Python function; for verl also a setting of the actor.",
)
@click.option("--group", type=click.IntRange(1), help="Responses per prompt, if of a single size.")
@click.option("--steps", type=click.IntRange(1), default=6, show_default=True, help="Random steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the steps.")
@click.option(
    "--rtol",
    type=click.FloatRange(0, min_open=True),
    default=1e-7,
    show_default=True,
    help="The largest relative difference of what is the same.",
)
@click.option(
    "--test",
    "test_file",
    type=click.Path(path_type=Path),
    help="Write the smallest step on which they differ as a test for pytest.",
)
@click.option(
    "--output-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How to print the comparison.",
)
def compare(
    a: str,
    b: str,
    passed: tuple[str, ...],
    test_file: Path | None,
    output_format: str,
    **options: Any,
) -> None:
    """Compare two losses by their values and gradients.

    A and B are files, gallery names, or Python functions: `my_losses.py:loss`. Random steps are
    drawn, and both are computed in float64. Where they differ, the smallest step that shows it is
    printed, and by what they differ, if that is recognised.

    An objective is data, and runs no code. The file of a Python function is imported and the
    function called: compare only files that you would run.

    The exit code is 0 if the losses are the same, 1 if not, 2 if one cannot be computed.
    """
    from objdsl.compare import compare as measure
    from objdsl.ir.objective import SettingError
    from objdsl.losses.loss import LossError

    try:
        result = measure(a, b, settings=_settings(passed), **options)
    except (LossError, FileNotFoundError, SettingError) as error:
        raise click.UsageError(str(error)) from None
    if output_format == "json":
        data(result.to_json())
    else:
        say(str(result), nl=False)
    if test_file is not None and result.example is not None:
        write(test_file, result.as_test())
        say(f"wrote {test_file}", err=True)
    if not result.same:
        sys.exit(1)


def _settings(passed: tuple[str, ...]) -> dict[str, Any]:
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
