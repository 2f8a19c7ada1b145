"""The emitted functions of an objective, and their runs over steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from objdsl.emit.load import Compiled, load
from objdsl.emit.stages import Layout
from objdsl.errors import InputError
from objdsl.ir.objective import Objective as Formula
from objdsl.step.gather import gather
from objdsl.step.rows import Step


class Programs:
    """The functions of an objective, for each layout of the tokens.

    Attributes:
        options: of `torch.compile`, if it runs under that.
    """

    def __init__(self, formula: Formula, params: Mapping[str, float]) -> None:
        self.formula, self.params = formula, params
        self.options: dict[str, Any] | None = None
        self._loaded: dict[Layout, Compiled] = {}
        self._compiled: dict[Layout, Any] = {}

    def __call__(self, layout: Layout) -> Compiled:
        if layout not in self._loaded:
            self._loaded[layout] = load(self.formula, layout)
        return self._loaded[layout]

    def compile(self, options: dict[str, Any]) -> None:
        """Runs the functions under `torch.compile` from now on."""
        self.options = options
        self._compiled.clear()

    def couple(self, step: Step, inputs: Mapping[str, Tensor]) -> Step:
        """The step with the values that couple its responses, at these trained inputs."""
        compiled = self(step.layout)
        assert compiled.couple is not None and compiled.program.couple is not None
        function, share = compiled.program.couple, step.share
        trained = {name: x for name, x in inputs.items() if name in function.columns}
        whole = step
        if share is not None:
            rows = {name: x for name, x in trained.items() if x.dim()}
            whole, trained = share.whole, {**trained, **gather(rows, share.group)}
        dtype = next(iter(trained.values())).dtype
        with torch.no_grad():
            values = compiled.couple(
                **whole.arguments(function.inputs, dtype, trained, self.params)
            )
        coupled = replace(whole.with_values(values, function.outputs, dtype), coupled=True)
        return coupled if share is None else share.local_rows(coupled)

    def evaluate(
        self, step: Step, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The value, its derivatives with respect to the trained inputs, and the reports."""
        program = self(step.layout).program
        silent: tuple[str, ...] = ()
        if program.couple is not None and not step.coupled:
            if step.whole:
                step = self.couple(step, inputs)
            elif program.coupled:
                raise InputError(
                    f"{self.formula.name} couples responses through the current policy: call "
                    "`step = objective.couple(step, log_pi=...)` on the whole step before it is cut"
                )
            else:
                # Only reports are coupled; for a part of the step they have no meaning.
                silent = program.whole_step_reports
                step = step.with_placeholders(program.couple.outputs)
        dtype = next(iter(inputs.values())).dtype
        arguments = step.arguments(program.objective.inputs, dtype, inputs, self.params)
        value, weights, reports = self._function(step.layout)(**arguments)
        if not torch.compiler.is_compiling() and value.device.type == "cpu" and value.isnan():
            step.find_nan(inputs)
        return value, weights, {k: v for k, v in reports.items() if k not in silent}

    def _function(self, layout: Layout) -> Any:
        if self.options is None or torch.compiler.is_compiling():
            return self(layout).objective
        if layout not in self._compiled:
            function = self(layout).objective
            self._compiled[layout] = torch.compile(function, fullgraph=True, **self.options)
        return self._compiled[layout]
