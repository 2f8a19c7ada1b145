"""`objdsl compare`: two losses on the same steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from objdsl.cli.output import data, say, write
from objdsl.cli.python import like_options, passed_settings


@click.command(epilog="Example: objdsl compare grpo dr_grpo")
@click.argument("a")
@click.argument("b", required=False)
@like_options
@click.option("--group", type=click.IntRange(1), help="Responses per prompt, if of a single size.")
@click.option("--steps", type=click.IntRange(1), default=6, show_default=True, help="Random steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the steps.")
@click.option(
    "--rtol",
    type=click.FloatRange(0, min_open=True),
    default=1e-7,
    show_default=True,
    help="Relative tolerance of values that count as equal.",
)
@click.option(
    "--test",
    "test_file",
    type=click.Path(path_type=Path),
    help="Write the smallest step on which they differ as a test for pytest.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Record A on these steps, instead of comparing it with B.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Compare A with what was recorded.",
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
    b: str | None,
    passed: tuple[str, ...],
    test_file: Path | None,
    save: Path | None,
    against: Path | None,
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
    from objdsl.compare import golden
    from objdsl.compare.golden import against as beside
    from objdsl.ir.objective import SettingError
    from objdsl.losses.loss import LossError

    if [b, save, against].count(None) != 2:
        raise click.UsageError("compare A with B, with --against FILE, or record it by --save FILE")
    options["settings"] = passed_settings(passed)
    try:
        if save is not None:
            del options["rtol"]
            write(save, golden(a, **options) + "\n")
            say(f"wrote {save}", err=True)
            return
        if against is not None:
            chosen = {name: options[name] for name in ("like", "settings", "rtol")}
            verdict = beside(a, against.read_text(encoding="utf-8"), **chosen)
            say(str(verdict))
            sys.exit(1 if verdict.changed else 0)
        assert b is not None
        result = measure(a, b, **options)
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
