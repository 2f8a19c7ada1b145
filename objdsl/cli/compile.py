"""`objdsl compile`: any stage of the compiler, for people to read and programs to use."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from objdsl import driver
from objdsl.cli.inputs import text
from objdsl.cli.output import code
from objdsl.source import Span
from objdsl.syntax.parse import parse

STAGES = ("tree", "ir", "weights", "torch")


@click.command(epilog="Example: objdsl compile dapo --layout packed -o dapo.py")
@click.argument("file")
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    default="torch",
    help="Where to stop: the syntax tree or the IR (JSON), the gradient weights (mathematics), or "
    "PyTorch source (the default).",
)
@click.option(
    "--latex", is_flag=True, help="The formula in LaTeX; with --stage weights, its derivative."
)
@click.option(
    "--layout",
    type=click.Choice(["padded", "packed"]),
    default="padded",
    help="Token tensors [N, T] with a mask, or [M] with lengths.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there instead.")
def compile(file: str, stage: str, latex: bool, layout: str, output: Path | None) -> None:
    """Print what an objective compiles to.

    FILE is a file, a name of the gallery, or `-` for standard input.
    """
    source = text(file)
    if stage == "tree":
        made, language = json.dumps(_plain(parse(source)), indent=2) + "\n", "json"
    elif latex or stage == "weights":
        formula = driver.compile_source(source)
        made = driver.mathematics(formula, weights=stage == "weights", latex=latex)
        language = "latex" if latex else "text"
    elif stage == "ir":
        made, language = driver.ir(driver.compile_source(source)) + "\n", "json"
    else:
        formula = driver.compile_source(source)
        made, language = driver.torch_source(formula, packed=layout == "packed"), "python"
    if output is None:
        code(made, language)
    else:
        output.write_text(made, encoding="utf-8", newline="\n")
        click.echo(f"wrote {output}")


def _plain(node: Any) -> Any:
    """A syntax tree as JSON: every node an object that names its kind and its place."""
    if isinstance(node, Span):
        return [node.start, node.end]
    if isinstance(node, tuple):
        return [_plain(each) for each in node]
    if dataclasses.is_dataclass(node):
        fields = {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
        fields.pop("source", None)
        return {"node": type(node).__name__} | fields
    return node
