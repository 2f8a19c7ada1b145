"""`objdsl import`: formulas in other notations, and configurations of frameworks, as objectives."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from objdsl.cli.inputs import STDIN
from objdsl.cli.output import say, show, verbatim, write


@click.group("import")
def imports() -> None:
    """Turn a formula or a configuration of a framework into an objective."""


@imports.command("tex", epilog="Example: objdsl import tex paper.tex -o mine.obj")
@click.argument("file")
@click.option("--name", help="Name of the objective; the default is that of the file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead.")
def tex(file: str, name: str | None, output: Path | None) -> None:
    """Translate a formula in LaTeX, as papers print it.

    FILE is a LaTeX file, of which the displayed equations are read (or all of it, if there are
    none), or `-` for standard input. What the formula leaves open is guessed, with a comment
    beside it; what cannot be read is an error at its place. The output of `objdsl compile --latex`
    gives the objective back.
    """
    from objdsl import driver
    from objdsl.errors import ObjectiveError
    from objdsl.source import Source
    from objdsl.spelling import identifier
    from objdsl.syntax.read import read, read_from
    from objdsl.tex import imported

    stdin = file == STDIN
    source = read_from(sys.stdin.buffer, "<stdin>") if stdin else read(Path(file).expanduser())
    printed = imported(source, name or ("imported" if stdin else identifier(Path(file).stem)))
    _print(printed, output)
    try:
        driver.compile_source(Source(str(output or "imported.obj"), printed))
    except ObjectiveError as error:
        show(error.diagnostics)
        sys.exit(1)


@imports.command("trl", epilog="Example: objdsl import trl grpo.yaml -o mine.obj")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", help="Name of the objective; the default is that of the file.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True,
    help="How many processes train; each takes its own micro-batches.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead.")
def trl(config: str, name: str | None, processes: int, output: Path | None) -> None:
    """Write out the objective that TRL computes under a configuration.

    CONFIG is a YAML file of `trl grpo`, `trl rloo` or `trl dpo`: which one, its name says, or a
    setting that only that trainer has; otherwise it is one of GRPO. Settings that shape the formula
    stand beside it; what TRL does besides stands at the top. TRL need not be installed.

    The other commands take such a file directly: `objdsl check trl:grpo.yaml`.
    """
    from objdsl.driver import configured

    _print(configured(f"trl:{config}", name, processes).text, output)


@imports.command("verl", epilog="Example: objdsl import verl run_grpo.sh -o mine.obj")
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--name", help="Name of the objective; the default is that of the file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead.")
def verl(config: str, overrides: tuple[str, ...], name: str | None, output: Path | None) -> None:
    """Write out the objective that verl computes under a configuration.

    CONFIG is a YAML tree of verl's PPO trainer, whole or in parts, or a shell script (.sh, .slurm)
    that passes it overrides. OVERRIDES are such settings, `algorithm.adv_estimator=grpo`; without
    a file they are all. The rest stands at verl's defaults. Settings that shape the formula stand
    beside it; what verl does besides stands at the top. verl need not be installed.

    The other commands take such a file directly: `objdsl check verl:run_grpo.sh`.
    """
    from objdsl.driver import configured

    if "=" in config:
        config, overrides = "", (config, *overrides)
    _print(configured(f"verl:{config}", name, overrides=overrides).text, output)


def _print(text: str, output: Path | None) -> None:
    """An objective on the standard output, or to a file."""
    if output is None:
        verbatim(text)
    else:
        write(output, text)
        say(f"wrote {output}")
