"""`objdsl plot`: the curves of one run, or of several."""

from __future__ import annotations

from pathlib import Path

import click

from objdsl.cli.output import say


@click.command(epilog="Example: objdsl plot runs/grpo runs/dr_grpo --metric reward -o reward.svg")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("curves.png"),
    show_default=True,
    help="Output file: PNG, SVG or PDF.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Plot only this metric. May be repeated.",
)
def plot(runs: tuple[Path, ...], output: Path, metrics: tuple[str, ...]) -> None:
    """Plot the metrics of training runs against the step, one panel per metric.

    RUNS are the folders that `objdsl train` wrote.
    """
    from objdsl.runtime.report.plot import plot as draw

    try:
        say(f"wrote {draw(runs, output, metrics)}")
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None
