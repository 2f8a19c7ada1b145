"""From an objective to PyTorch source that a person could have written.

The source has up to four functions:

    prepare     everything that does not depend on the current policy, for the whole optimizer step
    couple      what couples responses through the current policy, for the whole optimizer step
    objective   the rest, for any part of the step's rows: value, weights and reports in closed form
    advance     the next values of the states, from a whole rollout

so that the sums of `objective` over the parts of a step are the step's, however it is cut.
No autograd is involved: `weights` is the derivative, as `differentiate` found it.

Expressions by themselves have two: `prepare`, and `values` for any part of the step's rows.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

import objdsl.ir.nodes as n
from objdsl.emit.helpers import called, torch_helpers
from objdsl.emit.stages import Input, Layout, staged, staged_states, staged_values, stored_indices
from objdsl.emit.torch_peers import TorchPeers
from objdsl.emit.wrap import wrap
from objdsl.emit.writer import (
    ATOM,
    WIDTH,
    string,
    title,
    without_unused,
)
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO
from objdsl.ir.columns import column_of
from objdsl.ir.differentiate import Leaf, is_learned
from objdsl.ir.indices import RESPONSE, SCALAR, TOKEN, VOCAB, Indices
from objdsl.ir.objective import Objective


@dataclass(frozen=True)
class Function:
    """One emitted function: its source, and the names and indices of what goes in and out."""

    source: str
    inputs: tuple[Input, ...]
    outputs: tuple[Input, ...]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it computes with."""
        return frozenset(source.key for source in self.inputs if source.kind == "column")


@dataclass(frozen=True)
class Program:
    """The emitted functions of an objective, for one layout of the tokens.

    `couple` is None if no response depends on another's current log-probabilities. `coupled`
    says whether value or weights need it; otherwise only reports do, which are named in
    `whole_step_reports`.
    """

    source: str
    prepare: Function
    couple: Function | None
    objective: Function
    coupled: bool
    whole_step_reports: tuple[str, ...]

    @property
    def early(self) -> frozenset[str]:
        """The columns that are computed with where the whole step is seen."""
        return self.prepare.columns | (self.couple.columns if self.couple else frozenset())


@dataclass(frozen=True)
class Values:
    """The emitted functions of some expressions, for one layout of the tokens."""

    source: str
    prepare: Function
    values: Function

    @property
    def early(self) -> frozenset[str]:
        """The columns that are computed with where the whole step is seen."""
        return self.prepare.columns


def emit(ir: Objective, layout: Layout) -> Program:
    """PyTorch source for an objective. Needs no torch.

    Args:
        ir: the objective.
        layout: `padded` for token tensors `[N, T]` with a mask, `packed` for `[M]`.
    """
    stages = staged(ir, layout)
    scope, roots = stages.scope, stages.roots
    prepare = TorchWriter(scope, "prepare", stored=()).prepare(stages.prepared)
    couple = None
    if stages.statistics:
        couple = TorchWriter(scope, "couple", stored=stages.prepared).couple(stages.statistics)
    main = TorchWriter(scope, "objective", stored=[*stages.prepared, *stages.statistics])
    objective = main.objective(roots, stages.weights, [r.name for r in ir.reports])
    whole = tuple(
        r.name
        for r in ir.reports
        if any(
            stages.coupled([roots[f"report {r.name} {part}"]]) for part in ("tokens", "responses")
        )
    )
    functions = [prepare, *([couple] if couple else []), objective]
    functions += [_advance(ir, layout)] if ir.states else []
    source = _module(ir, functions)
    return Program(source, prepare, couple, objective, stages.coupled(stages.core), whole)


def emit_values(ir: Objective, values: Mapping[str, n.Expr], layout: Layout) -> Values:
    """PyTorch source for expressions at the tokens of any rows of a step. Needs no torch.

    What belongs to a response is handed to each of its tokens; padding is 0. A mask is 1 where it
    holds.

    Args:
        ir: the objective whose columns, parameters and definitions they are made of.
        values: by the names of the results.
        layout: as `emit` takes it.

    Raises:
        ValueError: one of them couples responses through the current policy.
    """
    stages = staged_values(ir, values, layout)
    if stages.statistics:
        raise ValueError("these values need the current log-probabilities of other responses")
    prepare = TorchWriter(stages.scope, "prepare", stored=()).prepare(stages.prepared)
    main = TorchWriter(stages.scope, "values", stored=stages.prepared)
    function = main.values({name: (stages.roots[name], x.indices) for name, x in values.items()})
    return Values(_module(ir, [prepare, function]), prepare, function)


def emit_states(ir: Objective, layout: Layout) -> Values:
    """PyTorch source for the next values of the states of an objective. Needs no torch."""
    function = _advance(ir, layout)
    return Values(_module(ir, [function]), function, function)


def _advance(ir: Objective, layout: Layout) -> Function:
    stages = staged_states(ir, layout)
    return TorchWriter(stages.scope, "advance", stored=()).advance(stages.roots)


class TorchWriter(TorchPeers):
    """Writes the functions of a program."""

    def prepare(self, outputs: list[n.Expr]) -> Function:
        self._count(outputs)
        entries = []
        for node in outputs:
            entries.append(
                (self.scope.given[node], self._whole(node), stored_indices(node.indices))
            )
        return self._function(
            "Everything that does not depend on the policy, once for the whole optimizer step.",
            entries,
        )

    def couple(self, outputs: list[n.Expr]) -> Function:
        self._count(outputs)
        entries = []
        for node in outputs:
            entries.append(
                (self.scope.given[node], self._whole(node), stored_indices(node.indices))
            )
        return self._function(
            "What couples responses through the current policy, once for the whole step.", entries
        )

    def advance(self, values: Mapping[str, n.Expr]) -> Function:
        self._count(values.values())
        entries = [
            (k, self._whole(value), stored_indices(value.indices)) for k, value in values.items()
        ]
        doc = "The next values of the states, from everything that was sampled."
        return self._function(doc, entries)

    def objective(
        self, roots: dict[str, n.Expr], weights: dict[Leaf, n.Expr], reports: list[str]
    ) -> Function:
        self._count(roots.values())
        value = self._total(roots["value tokens"], roots["value responses"])
        self.lines.append(f"J = {value}")
        entries = []
        for leaf in weights:
            column = column_of(leaf).name
            if is_learned(leaf):
                parts = (roots[f"learned {column} {part}"] for part in ("tokens", "responses"))
                weight = self._total_tensor(*parts)
            else:
                weight = self._everywhere(roots[f"weight {column}"], leaf.indices)
            entries.append(f"{string(column)}: {weight}")
        self.lines.append(f"weights = {{{', '.join(entries)}}}")
        totals = []
        for name in reports:
            terms = roots[f"report {name} tokens"], roots[f"report {name} responses"]
            totals.append(f"    {string(name)}: {self._total(*terms)},")
        self.lines.extend(["reports = {", *totals, "}"] if totals else ["reports = {}"])
        self.lines.append("return J, weights, reports")
        doc = "The value, its derivative by each trained input, and the reports, of these rows."
        return Function(self._header(doc), tuple(self.inputs.values()), ())

    def values(self, roots: Mapping[str, tuple[n.Expr, Indices]]) -> Function:
        self._count(root for root, _ in roots.values())
        entries = []
        for name, (root, indices) in roots.items():
            at = max(TOKEN, indices, key=len)
            entries.append((name, self._everywhere(root, at), at))
        return self._function("The values of expressions at the tokens of these rows.", entries)

    def _function(self, doc: str, entries: list[tuple[str, str, Indices]]) -> Function:
        items = ", ".join(f'"{name}": {text}' for name, text, _ in entries)
        line = f"return {{{items}}}"
        if len(line) + 4 <= WIDTH:
            self.lines.append(line)
        else:
            self.lines.append("return {")
            self.lines.extend(f'    "{name}": {text},' for name, text, _ in entries)
            self.lines.append("}")
        outputs = tuple(Input(name, indices, "stored", name) for name, _, indices in entries)
        return Function(self._header(doc), tuple(self.inputs.values()), outputs)

    def _header(self, doc: str) -> str:
        names = list(self.inputs)
        arguments = ", ".join(names)
        head = f"def {self.kind}({'*, ' if names else ''}{arguments}):"
        if len(head) > WIDTH:
            wrapped = textwrap.wrap(arguments + ",", WIDTH - 4)
            head = f"def {self.kind}(\n    *,\n" + "".join(f"    {w}\n" for w in wrapped) + "):"
        body = [f'"""{doc}"""', *without_unused(self.lines)]
        return "\n".join([head, *(cut for line in body for cut in wrap("    " + line, WIDTH))])

    # --- results ---------------------------------------------------------------------------------

    def _whole(self, node: n.Expr) -> str:
        """A result of `prepare` or `couple`: values of prompts are handed out to their rows."""
        return self._at(node, stored_indices(node.indices))

    def _total(self, tokens: n.Expr, responses: n.Expr) -> str:
        """The sum over the rows of token terms and of response terms."""
        parts = []
        if tokens != ZERO:
            text = self._at(tokens, TOKEN)
            if self.packed:
                full = tokens.indices == TOKEN and not self._isnumber(tokens)
                if not full:
                    row = self._environment("row", TOKEN)
                    text = f"torch.full_like({row}, 1, dtype={self._dtype()}) * ({text})"
                parts.append(f"({text}).sum()" if not text.isidentifier() else f"{text}.sum()")
            else:
                parts.append(self._masked(text, tokens) + ".sum()")
        if responses != ZERO:
            text = self._at(responses, RESPONSE, ATOM)
            if self._indices(responses) != SCALAR:
                parts.append(f"{text}.sum()")
            else:
                parts.append(f"len({self._environment('length', RESPONSE)}) * {text}")
        return " + ".join(parts) or f"torch.zeros((), dtype={self._dtype()})"

    def _total_tensor(self, tokens: n.Expr, responses: n.Expr) -> str:
        """The text of a sum that is a tensor, also where all of it is one number."""
        total = self._total(tokens, responses)
        if tokens != ZERO or not self._isnumber(responses):
            return total
        like = self._environment("mask", TOKEN)
        return f"torch.full((), {total}, dtype={self._dtype()}, device={like}.device)"

    def _masked(self, text: str, node: n.Expr) -> str:
        mask = self._environment("mask", TOKEN)
        if self._isnumber(node):
            text = f"torch.full_like({mask}, {text}, dtype={self._dtype()})"
        return f"torch.where({mask}, {text}, 0.0)"

    def _everywhere(self, node: n.Expr, indices: Indices) -> str:
        """A value at all tokens, or over the vocabulary at all tokens; 0 in padding."""
        text = self._at(node, indices)
        if self.packed:
            if self._indices(node) in (TOKEN, VOCAB, RESPONSE):
                return text
            row = self._environment("row", TOKEN) + ("[:, None]" if indices == VOCAB else "")
            return f"torch.full_like({row}, 1, dtype={self._dtype()}) * ({text})"
        if indices == VOCAB:
            mask = f"{self._environment('mask', TOKEN)}[..., None]"
            if self._isnumber(node):
                return f"torch.where({mask}, {self._tensor(node)}, 0.0)"
            return f"torch.where({mask}, {text}, 0.0)"
        return self._masked(text, node)


def _module(ir: Objective, functions: list[Function]) -> str:
    body = "\n\n\n".join(f.source for f in functions)
    helpers = called(torch_helpers(), body)
    imports = ["import torch"]
    if re.search(r"\bmath\.", body):
        imports.insert(0, "import math")
    return "\n\n\n".join([title(ir) + "\n\n" + "\n".join(imports), *helpers, body]) + "\n"
