"""The Python face of an objective: from tensors to a loss.

A training step uses the two halves of it:

    step  = objective.prepare(mask=..., prompt=..., reward=..., ...)   # the whole optimizer step
    micro = objective(log_pi[rows], step[rows])                        # any part of its rows

Losses, gradients and reports of the parts add up to the step's, however it is cut; also into the
rows of several processes, which `prepare` then brings together (`group`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objdsl import driver
from objdsl.analysis.schedule.plan import BUDGET, Schedule
from objdsl.bound import BoundFormula
from objdsl.errors import InputError, InputTypeError
from objdsl.fused.autograd import precomputed, refuse_batches
from objdsl.fused.head import Precision
from objdsl.fused.kernels import Name
from objdsl.fused.loss import FusedLoss
from objdsl.fused.run import Weights
from objdsl.fused.sequence_parallel import SequenceParallel
from objdsl.ir.columns import LogProbs
from objdsl.ir.decide import decided
from objdsl.ir.nodes import Expr
from objdsl.ir.objective import Objective as Formula
from objdsl.ir.phases import Pattern, conditions, pattern
from objdsl.step import Step
from objdsl.step.inputs import (
    check_drawn,
    check_learned,
    check_names,
    check_trained,
    computable,
    widest,
)
from objdsl.step.states import States
from objdsl.syntax.read import written

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Output:
    """The result of an objective for some rows of an optimizer step.

    Attributes:
        loss: 0-d, to be minimised; `backward` reaches the trained inputs.
        value: 0-d, what is maximised (J, minus the critic's loss), without gradient.
        reports: the values that the file reports, 0-d, without gradient.
        log_pi: from `fused` alone, the log-probabilities that it computed, without gradient.
    """

    loss: Tensor
    value: Tensor
    reports: dict[str, Tensor]
    log_pi: Tensor | None = None


class Objective(BoundFormula):
    """An objective, ready to be trained with. Made by `objdsl.load` and `objdsl.loads`."""

    def __init__(self, formula: Formula, params: Mapping[str, float] | None = None) -> None:
        super().__init__(formula, params)
        self.fused_loss = FusedLoss(formula, self.params, self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as a formula: its functions are made again."""
        return _restored, (self.formula, self.params, self._programs.options)

    def with_params(self, /, **params: float) -> Objective:
        """The same formula with other hyper-parameters.

        Raises:
            ValueError: for an unknown name, or a value outside the declared domain.
        """
        return _restored(self.formula, {**self.params, **params}, self._programs.options)

    def phase(self, states: States) -> Objective:
        """The objective of a rollout, in which every condition on `step` is decided.

        It reads no column that this phase has no use for, and its functions are made once. The
        objective itself computes the same from the columns of all phases.

        Raises:
            InputError: nothing is trained in this phase, or `steps` is not known.
        """
        if not self._conditions:
            return self
        holds = pattern(self._conditions, states.step, states.steps, self.params)
        if holds not in self._phases:
            formula = self.formula.at(self.params)
            formula = decided(formula, dict(zip(self._conditions, holds, strict=True)))
            if not any(formula.columns[name].indices for name in formula.trained):
                raise InputError(f"{self.name} trains nothing at step {states.step}")
            self._phases[holds] = _restored(formula, self.params, self._programs.options)
        return self._phases[holds]

    # --- running ---------------------------------------------------------------------------------

    def compile(self, **options: Any) -> Objective:
        """Runs from now on under `torch.compile`, as one graph. Returns itself."""
        self._programs.compile(options)
        return self

    def prepare(
        self,
        /,
        *,
        prompt: Tensor | Sequence[Hashable] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
        group: ProcessGroup | None = None,
        **columns: Any,
    ) -> Step:
        """Everything about an optimizer step that does not depend on the policy.

        With `group`, every rank of it calls this with the rows that it has, which may be none, and
        gets their part of the whole step: losses, gradients and reports of all ranks add up to
        what one process would compute.

        Args:
            prompt: `[N]`, ids that say which responses answer the same prompt, on whatever rank:
                numbers, strings, or anything that can be hashed.
            mask: `[N, T]`, which tokens belong to a response; padding may hold anything. Holes
                (the outputs of tools) are fine where the objective does not read the order.
            lengths: `[N]`, instead of `mask`, for packed tokens `[M]`.
            dtype: of the computation; by default the widest of the float columns, float32 at least.
            generator: draws what `pick` chooses, on the first of several ranks; the column `noise`
                may be given instead.
            check: look at the values of the columns; each look waits for the device.
            group: the ranks that share the rows of the step.
            columns: `self.columns` but the trained ones. No gradient reaches them. Standard columns
                (`reward`, `log_ref`, ...) that it does not read are ignored.

        Raises:
            InputError: a ValueError, for a missing or an unknown column, a wrong shape or type, a
                value that cannot be (NaN or infinite at an unmasked token, a log-probability above
                0, a number outside of its declared domain), a mask that is neither 0 nor 1, an
                empty response, a group of one under `std` or `mean[j != i]`.
        """
        return self._preparation(
            prompt=prompt, mask=mask, lengths=lengths, dtype=dtype, generator=generator,
            check=check, group=group, columns=columns,
        )  # fmt: skip

    def couple(self, step: Step, log_pi: Tensor | None = None, **trained: Tensor) -> Step:
        """The step with what couples its responses through the current policy.

        Args:
            step: the whole step, or all rows that a rank has of it; then every rank calls this.
            log_pi: `[N, T]` or `[M]`, the current log-probabilities of these rows.
            trained: other trained inputs, if the objective has any, and learned numbers.

        Raises:
            InputError: for a part of a step, and for inputs that are wrong, or NaN at an unmasked
                token.
        """
        self._check_step(step)
        if self._programs(step.layout).couple is None:
            return step
        if not step.whole and step.share is None:
            raise InputError("couple needs the whole step, not a part of its rows")
        inputs = computable(self.columns, self._trained(step, log_pi, trained))
        step.find_nan(inputs)
        return self._programs.couple(step, inputs)

    def __call__(
        self, /, log_pi: Tensor | None = None, step: Step | None = None, **columns: Any
    ) -> Output:
        """The loss of some rows.

        Args:
            log_pi: `[N, T]` or `[M]`, log-probabilities of the sampled tokens under the policy.
            step: what `prepare` returned, or some rows of it. Without it, the columns of the whole
                step are given instead, and prepared on the way.
            columns: other trained inputs (`value`, `log_pi_dist`, ...), and learned numbers; see
                `learned`.

        Raises:
            InputError: for inputs of a wrong name, shape, type or device; on a CPU also for
                log-probabilities above 0, for NaN and -inf at unmasked tokens, and for learned
                numbers outside of their domains. On a GPU no
                value is looked at here, which would wait for the device.
        """
        trained = {name: columns.pop(name) for name in self.live[:] if name in columns}
        if step is None:
            if "prompt" not in columns:
                raise InputError(
                    f"{self.name} needs a step (what `prepare` returned), or `prompt`, `mask` and "
                    "the columns of a whole step"
                )
            columns.setdefault("dtype", widest(log_pi, *trained.values()))
            step = self.prepare(**columns)
        elif columns:
            raise InputError(f"unknown input {next(iter(columns))!r}; it has {list(self.live)}")
        inputs = self._trained(step, log_pi, trained)
        with torch.no_grad():
            value, weights, reports = self._evaluate(step, inputs)
        names = list(weights)
        loss = precomputed(value, [inputs[k] for k in names], [weights[k] for k in names])
        return Output(loss, value, reports)

    def weights(
        self, log_pi: Tensor | None = None, step: Step | None = None, **trained: Tensor
    ) -> Weights:
        """The value, its derivative by each trained input (`w = dJ / dlog pi`), and the reports.

        The closed form: no autograd. The loss is minus the value, its gradient minus the weights,
        which have the shapes of the trained inputs.

        Raises:
            InputError: the step is missing, or an input does not fit it.
        """
        if step is None:
            raise InputError("weights needs a step; make one by `prepare`")
        inputs = self._trained(step, log_pi, trained)
        with torch.no_grad():
            return self._evaluate(step, inputs)

    def fused(
        self,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        step: Step,
        *,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        softcap: float | None = None,
        kept: Tensor | None = None,
        schedule: Schedule | None = None,
        kernels: Name | None = None,
        precision: Precision = "inputs",
        sequence_parallel: SequenceParallel | None = None,
        budget: int = BUDGET,
        **trained: Tensor,
    ) -> Output:
        """The loss from the hidden states on: logits and their gradients are never stored.

        `loss.backward()` reaches `hidden`, `weight`, `bias` and the inputs in `trained`, once.
        Logits, log-probabilities and sums are float32 whatever the model's type (float64 for
        float64).

        Args:
            hidden: `[N, T, H]` or `[M, H]`, what the head is applied to: the states that *predict*
                the tokens.
            weight: `[V, H]`, of the head; frozen if it needs no gradient.
            tokens: `[N, T]` or `[M]`, the ids that were sampled.
            step: what `prepare` returned, or some rows of it.
            bias: `[V]`.
            temperature: by which the logits are divided.
            softcap: `c tanh(z / c)` is applied to the logits before that.
            kept: `[N, T, V]` or `[M, V]`, the part of the vocabulary that the sampler kept.
            schedule: instead of the one that is chosen; see `objdsl compile --stage plan`.
            kernels: `torch` for tensor operations instead of Triton's kernels, which run on a GPU
                where Triton is installed; `triton` to be refused where they cannot run.
            precision: of the logits, where the head is float32 and `hidden` bfloat16: `inputs`
                multiplies in float32; `bf16x2` splits the head into two bfloat16 parts (16 bits of
                its mantissa), `bf16x3` into three (all 24).
            sequence_parallel: which of the step's tokens this rank has, if the tokens of a response
                are on several ranks. `hidden` and `kept` are then `[m, ...]` and
                `tokens` `[m]`; `step` and inputs in `trained` are the same on all ranks, whose
                values, reports and gradients add up.
            budget: bytes for all tensors besides inputs and gradients.
            trained: trained inputs that the head does not compute, such as `value`, and learned
                numbers.

        Raises:
            ValueError: for inputs of a wrong name or shape, and for a schedule that cannot compute
                the objective.
        """
        self._check_step(step)
        if "spread" in trained:
            raise InputTypeError("`spread` of `fused` is called `sequence_parallel` now")
        results = self.fused_loss(
            hidden, weight, tokens, step, trained, bias=bias, temperature=temperature,
            softcap=softcap, kept=kept, precision=precision, kernels=kernels, schedule=schedule,
            budget=budget, sequence_parallel=sequence_parallel,
        )  # fmt: skip
        return Output(*results)

    def _check_step(self, step: Step) -> None:
        if not isinstance(step, Step):
            raise InputTypeError(f"a step is what `prepare` returns, not {type(step).__name__}")
        if step.objective != self.digest:
            raise InputError(
                f"this step was prepared by a different objective than {self!r}: each stores "
                "what it needs itself, at its own hyper-parameters"
            )

    def _trained(
        self, step: Step, log_pi: Tensor | None, others: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self._check_step(step)
        given = dict(others) if log_pi is None else {"log_pi": log_pi, **others}
        if not torch.compiler.is_compiling():
            refuse_batches(x for x in given.values() if isinstance(x, Tensor))
        check_names(self.name, given, self.live)
        for name in self.live:
            column = self.columns[name]
            check_trained(name, given[name], column.indices, step)
            x = given[name].detach()
            # On other devices, reading the values would wait for the device.
            sampled = isinstance(column.role, LogProbs) and not column.role.distribution
            if x.is_cpu and not torch.compiler.is_compiling():
                if sampled:
                    check_drawn(name, x, step)
                elif name in self._learned:
                    check_learned(self._learned[name], x)
        return {name: given[name] for name in self.live}

    def _evaluate(self, step: Step, trained: Mapping[str, Tensor]) -> Weights:
        inputs = computable(self.columns, trained)
        value, weights, reports = self._programs.evaluate(step, inputs)
        for name in weights:
            weights[name] = weights[name].to(trained[name].dtype).expand(trained[name].shape)
        return value, weights, reports

    @cached_property
    def _conditions(self) -> tuple[Expr, ...]:
        return conditions(self.formula)

    @cached_property
    def _phases(self) -> dict[Pattern, Objective]:
        return {}


def _restored(
    formula: Formula, params: Mapping[str, float], options: dict[str, Any] | None
) -> Objective:
    objective = Objective(formula, params)
    return objective if options is None else objective.compile(**options)


def load(name: str | Path, /, **params: float) -> Objective:
    """An objective from a file, or from the gallery by its name.

    Args:
        name: a path ending in `.obj`, one ending in `.json` with what `objdsl compile --stage ir`
            writes, or a gallery name such as `grpo`.
        params: hyper-parameters that differ from the file's defaults.

    Raises:
        FileNotFoundError: there is neither.
        ObjectiveError: the text is not an objective.
        ValueError: a parameter is unknown, or outside its domain.
    """
    return Objective(driver.compile_source(driver.read(name)), params)


def loads(text: str, /, **params: float) -> Objective:
    """An objective from its text."""
    return Objective(driver.compile_source(written("<string>", text)), params)
