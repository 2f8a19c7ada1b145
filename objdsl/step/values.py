"""Expressions of an objective, evaluated on their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from types import MappingProxyType

import torch
from torch import Tensor

from objdsl.emit.load import CompiledValues, load_values
from objdsl.emit.stages import Layout
from objdsl.ir.nodes import Expr, topological
from objdsl.ir.objective import Objective as Formula
from objdsl.step.inputs import computable
from objdsl.step.prepare import Preparation
from objdsl.step.rows import Step

_NONE: Mapping[str, Tensor] = MappingProxyType({})


class Values:
    """Expressions as numbers of the tokens of a step.

    Args:
        formula: the objective whose columns, parameters and definitions they are made of.
        values: the expressions, by the names of the results.
        params: the hyper-parameters.
    """

    def __init__(
        self, formula: Formula, values: Mapping[str, Expr], params: Mapping[str, float]
    ) -> None:
        self.formula, self.values, self.params = formula, values, params
        state = blake2b(repr(sorted(params.items())).encode(), digest_size=8)
        for name, x in values.items():
            state.update(name.encode() + x.key)
        self.digest = state.hexdigest()
        nodes = topological(*values.values())
        self.prepare = Preparation(formula, nodes, params, self.digest, self._program)
        self._programs: dict[Layout, CompiledValues] = {}

    def __call__(
        self, step: Step, dtype: torch.dtype, trained: Mapping[str, Tensor] = _NONE
    ) -> dict[str, Tensor]:
        """The values, `[N, T]` with 0 in padding, or `[M]`.

        Args:
            step: some rows of a step that was prepared for these expressions, or for their
                objective.
            dtype: of the computation.
            trained: the trained inputs, those that the expressions read among them.
        """
        compiled = self._program(step.layout)
        inputs = compiled.program.values.inputs
        with torch.no_grad():
            ready = step if step.objective == self.digest else self._ready(step, dtype)
            given = computable(self.prepare.columns, trained, dtype)
            return compiled.values(**ready.arguments(inputs, dtype, given, self.params))

    def _ready(self, step: Step, dtype: torch.dtype) -> Step:
        """The rows of an objective's step with the prepared values of these expressions, which are
        computed once for the whole step."""
        if step.origin is not None:
            whole, rows = step.origin
            part = self._ready(whole, dtype)[rows]
            if step.layout == "packed":
                return part
            width = step.mask.shape[1]
            tokens = {key: x[:, :width] for key, x in part.tokens.items()}
            return replace(part, mask=part.mask[:, :width], tokens=tokens)
        key = f"{self.digest} {dtype}"
        if key not in step.known:
            compiled = self._program(step.layout)
            prepare = compiled.program.prepare
            stored = compiled.prepare(**step.arguments(prepare.inputs, dtype, {}, self.params))
            step.known[key] = step.with_values(stored, prepare.outputs, dtype)
        return step.known[key]

    def _program(self, layout: Layout) -> CompiledValues:
        if layout not in self._programs:
            self._programs[layout] = load_values(self.formula, self.values, layout)
        return self._programs[layout]
