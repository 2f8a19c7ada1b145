"""Every way to compute an objective, on one random batch, and the differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import objdsl
from helpers.autograd_evaluator import derivative
from helpers.random_objectives import Data
from objdsl.ir.build import neg, sub
from objdsl.ir.columns import column_of
from objdsl.ir.differentiate import is_learned, weights_of
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.indices import PROMPT, SCALAR, TOKEN, VOCAB, Indices
from objdsl.ir.nodes import Expr, topological


@dataclass(frozen=True)
class Numbers:
    """What an objective is on a batch.

    Attributes:
        weights: for each trained column, an array `[length, ...]` of every response; of a learned
            number, one number.
        reports: None where the evaluator has none.
        scale: the largest number on the way to these: rounding errors are of its size.
    """

    value: float
    weights: dict[str, Any]
    reports: dict[str, float] | None
    scale: float = field(default=1.0, compare=False)

    def of_rows(self, rows: list[int]) -> Numbers:
        """The numbers of some responses; sums stay those of the step."""
        weights = {
            name: [some[row] for row in rows] if isinstance(some, list) else some
            for name, some in self.weights.items()
        }
        return replace(self, weights=weights)

    def differences(self, other: Numbers, tolerance: float = 1e-12) -> Iterator[str]:
        """The differences of other numbers from these; empty if they agree."""
        if not self._equal(self.value, other.value, tolerance):
            yield f"value: {self.value} and {other.value}"
        for name, x in self.reports.items() if other.reports is not None else ():
            if name not in other.reports or not self._equal(x, other.reports[name], tolerance):
                yield f"report {name}: {x} and {other.reports.get(name)}"
        for name in sorted(self.weights.keys() | other.weights.keys()):
            ours, theirs = self.weights.get(name), other.weights.get(name)
            if not isinstance(ours or theirs, list):
                if not self._equal(ours or 0.0, theirs or 0.0, 100 * tolerance):
                    yield f"derivative by {name}: {ours} and {theirs}"
                continue
            for row in range(len(ours or theirs or ())):
                a, b = (0.0 if x is None else x[row] for x in (ours, theirs))
                if not self._equal(a, b, 100 * tolerance):
                    yield f"weight {name} of response {row}: {a} and {b}"

    def _equal(self, a: Any, b: Any, tolerance: float) -> bool:
        return bool(np.allclose(a, b, rtol=0, atol=tolerance * self.scale, equal_nan=True))


@dataclass(frozen=True)
class Case:
    """An objective, and the data to compute it on."""

    objective: objdsl.Objective
    data: Data

    @cached_property
    def given(self) -> dict[str, Tensor]:
        given = {name for name in self.objective.columns if name not in self.objective.live}
        return {k: x for k, x in self.data.columns.items() if k in given}

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        return {k: self.data.columns[k] for k in self.objective.live}

    @cached_property
    def step(self) -> objdsl.Step:
        # The type is that of the columns, of which some objectives have none.
        return self.objective.prepare(
            mask=self.data.mask, prompt=self.data.prompt, dtype=torch.float64, **self.given
        )

    # --- states ----------------------------------------------------------------------------------

    def remembered(self) -> dict[str, list[float]]:
        """The next values of the states, one for each prompt, by the interpreter."""
        states, batch = self.objective.formula.states, self.data.batch
        values = evaluate([state.next for state in states], batch, self.objective.params)
        many = len(batch.groups)
        return {
            state.name: value if isinstance(value, list) else [value] * many
            for state, value in zip(states, values, strict=True)
        }

    def advanced(self, packed: bool = False, rows: Tensor | None = None, group: Any = None) -> Any:
        """The next values of the states by the emitted code, from the rows of one rank, or from
        all."""
        prompt, columns = self.data.prompt, self.data.columns
        names = [state.name for state in self.objective.formula.states if state.column.over]
        before = objdsl.States(
            int(columns["rollout_step"]),
            int(columns["rollout_steps"]),
            {s.name: float(columns[s.name]) for s in self.objective.formula.states
             if not s.column.over},
            {k: dict(zip(prompt.tolist(), columns[k].tolist(), strict=True)) for k in names},
        )  # fmt: skip
        rows = torch.arange(len(prompt)) if rows is None else rows
        mask = self.data.mask[rows]
        read = [k for k in self.objective.sampled_columns if k in columns]
        cut = {k: columns[k][rows] for k in read if columns[k].dim()}
        if packed:
            cut = {k: x[mask] if x.dim() > 1 else x for k, x in cut.items()}
        shape = {"lengths": mask.sum(-1)} if packed else {"mask": mask}
        keys = prompt[rows]
        after = self.objective.advance(before, keys, prompt=keys, group=group, **shape, **cut)
        assert after.step == before.step + 1
        in_order = sorted(set(prompt.tolist()))
        numbers = {name: [value] * len(in_order) for name, value in after.numbers.items()}
        return numbers | {k: [by[key] for key in in_order] for k, by in after.prompts.items()}

    # --- evaluators ------------------------------------------------------------------------------

    def reference(self) -> Numbers:
        """By the interpreter: the values of the formulas, and the weights that `differentiate`
        derives."""
        formula, batch = self.objective.formula, self.data.batch
        total = formula.goal if formula.critic is None else sub(formula.goal, formula.critic)
        weights = weights_of(formula)
        reports = [report.value for report in formula.reports]
        roots = [total, *weights.values(), *reports]
        nodes = [node for node in topological(*roots) if not node.paired]
        values = dict(zip(nodes, evaluate(nodes, batch, self.objective.params), strict=True))
        by_column: dict[str, Any] = {
            column_of(leaf).name: values[w]
            if is_learned(leaf)
            else [
                np.broadcast_to(_at_row(values[w], w.indices, leaf, batch, row), np.shape(x))
                for row, x in enumerate(batch.columns[column_of(leaf).name])
            ]
            for leaf, w in weights.items()
        }
        return Numbers(
            values[total],
            by_column,
            {report.name: values[report.value] for report in formula.reports},
            _largest(values.values()),
        )

    def autograd(self) -> Numbers:
        """By the second interpreter, differentiated by autograd."""
        formula = self.objective.formula
        total = formula.goal if formula.critic is None else sub(formula.goal, formula.critic)
        batch, params = self.data.batch, self.objective.params
        value, gradients = derivative(total, batch, params)
        weights: dict[str, Any] = {}
        if formula.dual is not None:
            downhill = derivative(neg(formula.dual), batch, params)[1]
            gradients |= {name: downhill[name] for name in formula.minimising}
        learned = {number.name for number in formula.learned}
        for name, elements in gradients.items():
            if name in learned:
                weights[name] = sum(elements.values())
                continue
            rows = [np.zeros(np.shape(x)) for x in self.data.batch.columns[name]]
            for (row, *at), g in elements.items():
                rows[row][tuple(at)] = g
            weights[name] = rows
        return Numbers(value, weights, None)

    def padded(self) -> Numbers:
        """By the emitted code, on padded tokens."""
        return self._of_padded(*self.objective.weights(step=self.step, **self.trained))

    def loss(self) -> Numbers:
        """By the loss that training calls, and its gradients."""
        live = {k: x.clone().requires_grad_() for k, x in self.trained.items()}
        output = self.objective(step=self.step, **live)
        output.loss.backward()
        assert output.loss.item() == -output.value.item() or output.value.isnan()
        weights = {k: -x.grad for k, x in live.items() if x.grad is not None}
        return self._of_padded(output.value, weights, output.reports)

    def packed(self) -> Numbers:
        """By the emitted code, on packed tokens."""
        step, trained, lengths = self._packed(torch.arange(len(self.data.prompt)))
        return self._of_packed(*self.objective.weights(step=step, **trained), lengths)

    def _packed(
        self, rows: Tensor, **options: Any
    ) -> tuple[objdsl.Step, dict[str, Tensor], list[int]]:
        """Some responses as a packed step, its trained inputs, and the lengths."""
        mask = self.data.mask[rows]
        columns = {k: x[rows] if x.dim() else x for k, x in self.data.columns.items()}
        columns = {k: x[mask] if x.dim() > 1 else x for k, x in columns.items()}
        step = self.objective.prepare(
            lengths=mask.sum(-1),
            prompt=self.data.prompt[rows],
            dtype=torch.float64,
            **{k: columns[k] for k in self.given},
            **options,
        )
        return step, {k: columns[k] for k in self.trained}, mask.sum(-1).tolist()

    def split(self, parts: Iterable[Tensor]) -> Numbers:
        """By the emitted code, a few rows at a time."""
        step = self.objective.couple(self.step, **self.trained)
        total = torch.zeros((), dtype=torch.float64)
        sums: dict[str, Any] = {}
        weights: dict[str, Tensor] = {}
        for rows in parts:
            value, some, reports = self.objective.weights(
                step=step[rows],
                **{k: x[rows] if x.dim() else x for k, x in self.trained.items()},
            )
            total += value
            for name, x in reports.items():
                sums[name] = sums.get(name, 0.0) + x
            for name, w in some.items():
                if not w.dim():
                    weights[name] = weights.get(name, 0.0) + w
                    continue
                weights.setdefault(name, torch.zeros_like(self.trained[name]))[rows] = w
        return self._of_padded(total, weights, sums)

    def rank(self, rows: Tensor, packed: bool, group: Any) -> Numbers:
        """By one rank that has these rows, and adds its sums to those of the others."""
        if packed:
            step, trained, lengths = self._packed(rows, group=group)
        else:
            lengths = self.data.mask[rows].sum(-1).tolist()
            width = max(lengths, default=1)
            cut = {k: x[rows] if x.dim() else x for k, x in self.data.columns.items()}
            cut = {k: x[:, :width] if x.dim() > 1 else x for k, x in cut.items()}
            step = self.objective.prepare(
                mask=self.data.mask[rows][:, :width],
                prompt=self.data.prompt[rows],
                dtype=torch.float64,
                **{k: cut[k] for k in self.given},
                group=group,
            )
            trained = {k: cut[k] for k in self.trained}
        step = self.objective.couple(step, **trained)
        value, weights, reports = self.objective.weights(step=step, **trained)
        for x in (value, *reports.values(), *(w for w in weights.values() if not w.dim())):
            dist.all_reduce(x, group=group)
        if packed:
            return self._of_packed(value, weights, reports, lengths)
        return self._of_padded(value, weights, reports, lengths)

    def _of_packed(
        self,
        value: Tensor,
        weights: dict[str, Tensor],
        reports: dict[str, Tensor],
        lengths: list[int],
    ) -> Numbers:
        rows: dict[str, Any] = {
            k: [x.numpy() for x in w.split(lengths)] if w.dim() else w.item()
            for k, w in weights.items()
        }
        return Numbers(value.item(), rows, {k: x.item() for k, x in reports.items()})

    def _of_padded(
        self,
        value: Tensor,
        weights: dict[str, Tensor],
        reports: dict[str, Tensor],
        lengths: list[int] | None = None,
    ) -> Numbers:
        lengths = self.data.mask.sum(-1).tolist() if lengths is None else lengths
        rows: dict[str, Any] = {}
        for name, w in weights.items():
            if not w.dim():
                rows[name] = w.item()
                continue
            rows[name] = [w[row, :length].numpy() for row, length in enumerate(lengths)]
            padding = [w[row, length:].any() for row, length in enumerate(lengths)]
            assert not any(padding), f"{name} has a weight in its padding"
        return Numbers(value.item(), rows, {k: x.item() for k, x in reports.items()})


def _at_row(value: Any, indices: Indices, leaf: Expr, batch: Batch, row: int) -> Any:
    """A value of the reference at one row, in a shape that broadcasts over the indices of a
    leaf."""
    if indices == SCALAR:
        return value
    if indices == PROMPT:
        return value[next(p for p, group in enumerate(batch.groups) if row in group)]
    x = np.asarray(value[row])
    return x[:, None] if (indices, leaf.indices) == (TOKEN, VOCAB) else x


def _largest(values: Iterable[Any]) -> float:
    """The size of the largest finite number, 1 at least."""
    largest = 1.0
    for value in values:
        for part in value if isinstance(value, list) else [value]:
            x = np.abs(np.asarray(part, dtype=float))
            largest = max(largest, x[np.isfinite(x)].max(initial=0.0))
    return largest
