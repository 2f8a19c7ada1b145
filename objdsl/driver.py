"""The pipeline, one function a stage: what the command line, the Python face and editors call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from objdsl.diagnostic import Diagnostic, Label
from objdsl.elaborate import elaborate, spellings, too_deep, undecided
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.ir.objective import Objective
from objdsl.objectives import gallery
from objdsl.source import Source, Span
from objdsl.syntax import tree
from objdsl.syntax.format import format
from objdsl.syntax.parse import parse
from objdsl.syntax.read import read as read_file
from objdsl.syntax.read import read_from

if TYPE_CHECKING:
    from objdsl.emit.triton_source import Kernel
    from objdsl.ir.differentiate import Leaf
    from objdsl.ir.nodes import Expr


LARGEST_IR = 2 * 1024 * 1024
"""Bytes of an objective that is given as JSON."""

# One fix may bring another up; two that undo each other are not waited for.
_MOST_ROUNDS = 10


@cache
def prelude() -> tree.File:
    """The parsed `std.obj`."""
    return parse(gallery.bundled(gallery.PRELUDE))


def compile_source(source: Source) -> Objective:
    """The formula of a text.

    Raises:
        ObjectiveError: with every error that the text holds.
    """
    return elaborate(parse(source), prelude(), _base)


def read(name: str | Path) -> Source:
    """The text that a person means by a path or by a gallery name.

    A path that ends in `.json` holds an objective as `ir` writes it, whose text is written out.

    Raises:
        FileNotFoundError: there is no such file and no such name; the message has a near one.
        ObjectiveError: the file is not text, or not an objective at all.
    """
    path = Path(name).expanduser()
    if path.suffix != gallery.IR_SUFFIX:
        return gallery.find(name)
    return written_out(read_file(path, LARGEST_IR))


def read_stream(stream: BinaryIO, name: str) -> Source:
    """The text of a stream: an objective in the language, or as JSON."""
    source = read_from(stream, name, LARGEST_IR)
    return written_out(source) if source.text.lstrip().startswith("{") else source


def written_out(ir: Source) -> Source:
    """An objective that is given as JSON, written in the language: findings point into that text.

    Raises:
        ObjectiveError: the JSON holds none, or one that the language says otherwise.
    """
    from objdsl.ir.exchange import changes, loads
    from objdsl.ir.unparse import unparse

    loaded = loads(ir)
    text = Source(ir.name, unparse(loaded.objective))
    if errors := changes(loaded, compile_source(text)):
        raise ObjectiveError(errors)
    return Source(ir.name, layout(text))


def _base(name: str, span: Span) -> tree.File:
    return _parsed(gallery.base(name, span))


@cache
def _parsed(source: Source) -> tree.File:
    """Many objectives start from the same few."""
    return parse(source)


def layout(source: Source) -> str:
    """The text in its one layout.

    Brackets go around a reduction that a product follows where they change nothing: `sum[t] x / n`
    is written `(sum[t] x) / n`. A text that reads two ways is laid out as it stands. Names that are
    read as others are written as those: `detach(x)` as `sg(x)`.

    Raises:
        ObjectiveError: the text cannot be read.
    """
    file = parse(source)
    known = spellings(file, prelude(), _base)
    return format(file, known.clear, known.aliases)


@dataclass(frozen=True)
class Checked:
    """What there is to say about a text.

    Attributes:
        objective: None if it is not one: the findings say why, or it is a library of functions.
        findings: the worst first.
        suppressed: those that comments of the text accept.
    """

    source: Source
    objective: Objective | None
    findings: list[Diagnostic]
    suppressed: list[Diagnostic]


def check(source: Source, settings: Mapping[str, float] | None = None) -> Checked:
    """Everything that the checker finds in a text, errors of the language included.

    `settings` are parameters, where they are not at their defaults.

    Raises:
        SettingError: for a setting that the objective does not have, or does not allow.
    """
    from objdsl.lint.run import findings, in_order, registry
    from objdsl.lint.suppress import ignores, suppress

    try:
        file = parse(source)
        if not any(isinstance(one, tree.Header | tree.Goal) for one in file.statements):
            found = undecided(file, prelude(), _base)  # definitions alone, as the prelude
            return Checked(source, None, found, [])
        objective = elaborate(file, prelude(), _base)
    except ObjectiveError as error:
        return Checked(source, None, list(error.diagnostics), [])
    if settings:
        objective = objective.at(settings)
    try:
        found = findings(objective)
    except RecursionError:
        return Checked(source, None, [too_deep(file)], [])
    bases = (one.base for one in file.statements if isinstance(one, tree.Header) and one.base)
    base = next(bases, None)
    if base is not None:
        found = [_located(one, source, base.span) for one in found]
    # Comments are about the text as it stands: a setting may take away what one of them accepts.
    kept, accepted = suppress(found, ignores(file), registry(), report_unused=not settings)
    return Checked(source, objective, in_order(kept), accepted)


def _located(finding: Diagnostic, source: Source, base: Span) -> Diagnostic:
    """A finding in what a text starts from also shows where the text does."""
    if finding.span is None or finding.span.source == source:
        return finding
    return replace(finding, labels=(*finding.labels, Label(base, "comes with it")))


def mend(
    checked: Checked, check: Callable[[Source], Checked], *, unsafe: bool
) -> tuple[Checked, int]:
    """A text after the fixes of its findings, round by round, and how many were made.

    What a round makes of an objective is one: a fix that would break it is not made. In a text that
    is none, a round leaves no more errors than there were. `check` says which findings are to be
    mended; `unsafe` fixes change the objective.
    """
    made = 0
    for _ in range(_MOST_ROUNDS):
        after, now = _round(checked, check, unsafe)
        if not now:
            break
        checked, made = after, made + now
    return checked, made


def _round(
    checked: Checked, check: Callable[[Source], Checked], unsafe: bool
) -> tuple[Checked, int]:
    """All fixes at once; if that breaks the text, the first one that does not by itself."""
    from objdsl.lint.fixes import fixed

    for findings in (checked.findings, *([one] for one in checked.findings)):
        source, made = fixed(checked.source, findings, unsafe=unsafe)
        if made:
            after = check(source)
            no_worse = checked.objective is None and len(after.findings) <= len(checked.findings)
            if after.objective is not None or no_worse:
                return after, made
    return checked, 0


def torch_source(formula: Objective, *, packed: bool = False) -> str:
    """The PyTorch of a formula, for token tensors `[N, T]` or packed `[M]`. Needs no torch."""
    from objdsl.emit.torch_source import emit

    return emit(formula, "packed" if packed else "padded").source


def triton_kernel(formula: Objective) -> Kernel:
    """The Triton kernel of a formula. Needs neither Triton nor PyTorch.

    Raises:
        NotElementwiseError: the weight of a token needs more than that token.
    """
    from objdsl.emit.triton_source import emit

    return emit(formula)


def derivatives(formula: Objective) -> dict[Leaf, Expr]:
    """`w = dJ / dlog pi`, and the derivative by every other trained leaf."""
    from objdsl.ir.differentiate import weights_of

    return weights_of(formula)


def mathematics(formula: Objective, *, weights: bool = False, latex: bool = False) -> str:
    """An objective as people read it, or its gradient weights `w = dJ / dlog pi`."""
    from objdsl.ir.layout import formula as shown

    found: dict[Expr, Expr] = dict(derivatives(formula).items()) if weights else {}
    return shown(formula.goal, found, formula.bindings, as_latex=latex)


def ir(formula: Objective) -> str:
    """An objective as JSON, with its gradient weights by the columns that they belong to."""
    from objdsl.ir.columns import column_of
    from objdsl.ir.exchange import dumps

    found = derivatives(formula)
    return dumps(formula, {column_of(leaf).name: weight for leaf, weight in found.items()})
