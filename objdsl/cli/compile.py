"""`objdsl compile`: any stage of the compiler, for people to read and programs to use."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from objdsl import driver
from objdsl.cli.inputs import text
from objdsl.cli.output import code, say, write
from objdsl.ir.objective import Objective
from objdsl.ir.phases import at
from objdsl.ir.unparse import declarations
from objdsl.source import Span
from objdsl.syntax.parse import parse

STAGES = ("tree", "ir", "weights", "plan", "torch", "triton")


@click.command(epilog="Example: objdsl compile dapo --layout packed -o dapo.py")
@click.argument("file")
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    help="Where to stop: the syntax tree or the IR (JSON), the gradient weights (mathematics), the "
    "plan of the fused head, PyTorch source (the default), or the Triton kernel of the fused head.",
)
@click.option(
    "--latex",
    is_flag=True,
    help="Print the formula in LaTeX; with --stage weights, its derivative.",
)
@click.option(
    "--layout",
    type=click.Choice(["padded", "packed"]),
    help="Layout of the PyTorch code: token tensors [N, T] with a mask (the default), or [M] with "
    "lengths.",
)
@click.option("--step", type=click.IntRange(0), help="Decide the conditions on `step`: this phase.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead.")
def compile(
    file: str,
    stage: str | None,
    latex: bool,
    layout: str | None,
    step: int | None,
    output: Path | None,
) -> None:
    """Print what an objective compiles to.

    FILE is a file, a gallery name, or `-` for standard input. The output of `--stage ir` is itself
    an objective: all commands can read it from a file that ends in `.json`.
    """
    if latex and stage not in (None, "weights"):
        raise click.UsageError("--latex shows the formula; with --stage weights, its derivative")
    if layout and (latex or stage not in (None, "torch")):
        raise click.UsageError("--layout applies to the PyTorch source only")
    source = text(file)
    formula = None if stage == "tree" else driver.compile_source(source)
    if formula is not None and step is not None:
        formula = at(formula, step)
    if formula is None:
        printed, language = json.dumps(_plain(parse(source)), indent=2) + "\n", "json"
    elif latex or stage == "weights":
        printed = driver.mathematics(formula, weights=stage == "weights", latex=latex)
        if latex and stage is None:  # what the formula does not show, for `objdsl import tex`
            lines = (f"% objdsl: {line}\n" for line in declarations(formula))
            printed = "".join(lines) + printed
        language = "latex" if latex else "text"
    elif stage == "plan":
        printed, language = _plan(formula), "text"
    elif stage == "ir":
        printed, language = driver.ir(formula) + "\n", "json"
    elif stage == "triton":
        printed, language = _triton(formula), "python"
    else:
        printed, language = driver.torch_source(formula, packed=layout == "packed"), "python"
    if output is None:
        code(printed, language)
    else:
        write(output, printed)
        say(f"wrote {output}")


def _triton(objective: Objective) -> str:
    from objdsl.emit.triton_writer import NotElementwiseError

    try:
        return driver.triton_kernel(objective).source
    except NotElementwiseError as error:
        message = f"{objective.name} cannot be one kernel: its weights depend on {error.needs}"
        raise click.UsageError(message) from None


# A realistic step, and the head of a model of eight billion parameters.
_TOKENS, _LONGEST, _HIDDEN, _VOCABULARY = 32_768, 8_192, 4_096, 128_256


def _plan(objective: Objective) -> str:
    """The schedule, the reason for it, and its cost."""
    from objdsl.analysis.schedule.coupling import coupled
    from objdsl.analysis.schedule.plan import Sizes, legal, plan
    from objdsl.ir.text import text
    from objdsl.ir.writer import names_of

    try:
        coupling = coupled(objective)
        chosen = plan(coupling, Sizes(_TOKENS, _LONGEST, _HIDDEN, _VOCABULARY, weight_bytes=2))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    names = names_of(objective.bindings)
    mask = coupling.may_be_nonzero
    weighted = "every token" if mask is None else f"tokens where {text(mask, names)}"
    factors: list[tuple[str, str]] = []
    if coupling.separated is not None:
        scale, share = (
            text(x, names) for x in (coupling.separated.scale, coupling.separated.share)
        )
        factors = [("weight", f"per response  {scale}"), ("", f"x per token   {share}")]
    return "".join(
        f"{title:<12}{line}\n"
        for title, line in (
            ("schedule", chosen.schedule),
            ("because", chosen.reason),
            ("possible", "; ".join(legal(coupling))),
            *factors,
            ("weighted", weighted),
            ("kernels", _kernels(objective)),
            ("products", f"{chosen.units:g} of tokens x hidden x vocabulary, if all have a weight"),
            ("", f"for {_TOKENS} tokens, {_LONGEST} in the longest response, hidden {_HIDDEN}, "
             f"vocabulary {_VOCABULARY}, in bfloat16:"),
            ("chunk", f"{chosen.chunk} tokens, with {chosen.slice} logits each in the gradient"),
            ("scratch", f"{chosen.scratch / 2**30:.1f} GiB, where logits would take "
             f"{4 * _TOKENS * _VOCABULARY / 2**30:.1f}"),
        )
    )  # fmt: skip


def _kernels(objective: Objective) -> str:
    """The computation between the matrix products, on a GPU."""
    from objdsl.emit.triton_writer import NotElementwiseError

    try:
        kernel = driver.triton_kernel(objective)
    except NotElementwiseError as error:
        return f"two Triton kernels on a GPU, with PyTorch in between because of {error.needs}"
    if kernel.reports is None:
        return (
            "one Triton kernel on a GPU, from logits to their gradient; "
            f"PyTorch computes the value and reports, because of {kernel.needs}"
        )
    return "one Triton kernel on a GPU, from logits to their gradient, value and reports"


def _plain(node: Any) -> Any:
    """A syntax tree as JSON: every node is an object with its kind and its place."""
    if isinstance(node, Span):
        return [node.start, node.end]
    if isinstance(node, tuple):
        return [_plain(child) for child in node]
    if dataclasses.is_dataclass(node):
        fields = {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
        fields.pop("source", None)
        return {"node": type(node).__name__} | fields
    return node
