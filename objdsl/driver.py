"""The pipeline, one function per stage, for the command line, the Python interface and editors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from objdsl import frameworks
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
"""The largest size of a JSON objective, in bytes."""

# A fix can cause a new finding; the limit ends rounds of fixes that undo each other.
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


@cache
def bundled(name: str) -> Objective:
    """The formula of a gallery entry."""
    return compile_source(gallery.bundled(name))


def read(name: str | Path) -> Source:
    """The text of a path or of a gallery name.

    A path that ends in `.json` has an objective as `ir` writes it; the text is its translation into
    the language.
    `trl:CONFIG` and `verl:CONFIG` name configurations of TRL and verl; the text is the objective
    that they compute under them.

    Raises:
        FileNotFoundError: there is no such file and no such name; the message has a similar one.
        ObjectiveError: the file is not text, or not an objective at all.
    """
    if isinstance(name, str) and frameworks.is_configuration(name):
        return configured(name)
    path = Path(name).expanduser()
    if path.suffix != gallery.IR_SUFFIX:
        return gallery.find(name)
    return written_out(read_file(path, LARGEST_IR))


def configured(
    name: str, called: str | None = None, processes: int = 1, overrides: Sequence[str] = ()
) -> Source:
    """The objective that a framework computes under a configuration, in the canonical layout; the
    arguments and errors are those of `frameworks.configured`."""
    text = frameworks.configured(name, called, processes, overrides).text
    return Source(name, layout(Source(name, text)))


def read_stream(stream: BinaryIO, name: str) -> Source:
    """The text of a stream: an objective in the language, or as JSON."""
    source = read_from(stream, name, LARGEST_IR)
    return written_out(source) if source.text.lstrip().startswith("{") else source


def written_out(ir: Source) -> Source:
    """The translation of a JSON objective into the language; findings point into this text.

    Raises:
        ObjectiveError: the JSON is not an objective, or one that the language cannot express.
    """
    from objdsl.ir.exchange.changes import changes
    from objdsl.ir.exchange.reader import loads
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
    """Cached, since many objectives start from the same few."""
    return parse(source)


def layout(source: Source) -> str:
    """The text in its canonical layout.

    A reduction that a product follows gets brackets where they make no difference: `sum[t] x / n`
    becomes `(sum[t] x) / n`. An ambiguous text keeps its brackets. Aliases become the standard
    names: `detach(x)` becomes `sg(x)`.

    Raises:
        ObjectiveError: the text cannot be read.
    """
    file = parse(source)
    known = spellings(file, prelude(), _base)
    return format(file, known.clear, known.aliases)


@dataclass(frozen=True)
class Checked:
    """The findings of a text.

    Attributes:
        objective: None if the text is not one: either it has errors, or it only defines functions.
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
        if not any(isinstance(statement, tree.Header | tree.Goal) for statement in file.statements):
            # only definitions, like the prelude
            return Checked(source, None, undecided(file, prelude(), _base), [])
        objective = elaborate(file, prelude(), _base)
    except ObjectiveError as error:
        return Checked(source, None, list(error.diagnostics), [])
    if settings:
        objective = objective.at(settings)
    try:
        all_findings = findings(objective)
    except RecursionError:
        return Checked(source, None, [too_deep(file)], [])
    headers = (header for header in file.statements if isinstance(header, tree.Header))
    bases = (header.base for header in headers if header.base)
    base = next(bases, None)
    if base is not None:
        all_findings = [_located(finding, source, base.span) for finding in all_findings]
    # Comments refer to the default parameters: with others, an accepted finding may not occur.
    kept, accepted = suppress(all_findings, ignores(file), registry(), report_unused=not settings)
    return Checked(source, objective, in_order(kept), accepted)


def _located(finding: Diagnostic, source: Source, base: Span) -> Diagnostic:
    """A finding in a base file also shows where the text inherits from it."""
    if finding.span is None or finding.span.source == source:
        return finding
    return replace(finding, labels=(*finding.labels, Label(base, "inherited from here")))


def mend(
    checked: Checked, check: Callable[[Source], Checked], *, unsafe: bool
) -> tuple[Checked, int]:
    """A text after the fixes of its findings, round by round, and the number of applied fixes.

    A round never turns a valid objective into an invalid one: fixes that would are skipped. For an
    invalid text, a round never increases the number of errors. `check` selects the findings to fix;
    `unsafe` fixes change the objective.
    """
    total = 0
    for _ in range(_MOST_ROUNDS):
        after, applied = _round(checked, check, unsafe)
        if not applied:
            break
        checked, total = after, total + applied
    return checked, total


def _round(
    checked: Checked, check: Callable[[Source], Checked], unsafe: bool
) -> tuple[Checked, int]:
    """All fixes at once; if the result is invalid, the first fix that is valid on its own."""
    from objdsl.lint.fixes import fixed

    for findings in (checked.findings, *([finding] for finding in checked.findings)):
        source, applied = fixed(checked.source, findings, unsafe=unsafe)
        if applied:
            after = check(source)
            no_worse = checked.objective is None and len(after.findings) <= len(checked.findings)
            if after.objective is not None or no_worse:
                return after, applied
    return checked, 0


def torch_source(formula: Objective, *, packed: bool = False) -> str:
    """The PyTorch code of a formula, for token tensors `[N, T]` or packed `[M]`. Needs no torch."""
    from objdsl.emit.torch_source import emit

    return emit(formula, "packed" if packed else "padded").source


def triton_kernel(formula: Objective) -> Kernel:
    """The Triton kernel of a formula. Needs neither Triton nor PyTorch.

    Raises:
        NotElementwiseError: the weight of a token depends on more than that token.
    """
    from objdsl.emit.triton_source import emit

    return emit(formula)


def derivatives(formula: Objective) -> dict[Leaf, Expr]:
    """`w = dJ / dlog pi`, and the derivative with respect to every other trained leaf."""
    from objdsl.ir.differentiate import weights_of

    return weights_of(formula)


def mathematics(formula: Objective, *, weights: bool = False, latex: bool = False) -> str:
    """An objective in readable form, or its gradient weights `w = dJ / dlog pi`."""
    from objdsl.ir.layout import formula as shown

    by_leaf: dict[Expr, Expr] = dict(derivatives(formula).items()) if weights else {}
    return shown(
        formula.goal, by_leaf, formula.bindings, formula.states, formula.learned, formula.dual,
        as_latex=latex,
    )  # fmt: skip


def ir(formula: Objective) -> str:
    """An objective as JSON, with its gradient weights by the columns that they belong to."""
    from objdsl.ir.columns import column_of
    from objdsl.ir.exchange.writer import dumps

    weights = {column_of(leaf).name: weight for leaf, weight in derivatives(formula).items()}
    return dumps(formula, weights)
