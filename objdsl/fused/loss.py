"""The loss of an objective from the hidden states on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from objdsl.analysis.schedule.coupling import Coupled, Coupling
from objdsl.analysis.schedule.coupling import coupled as coupled_weights
from objdsl.analysis.schedule.plan import FEWEST_TOKENS, Schedule, plan
from objdsl.emit.load import load_kernel
from objdsl.emit.triton_source import Kernel
from objdsl.emit.triton_writer import NotElementwiseError
from objdsl.errors import InputError
from objdsl.fused.autograd import precomputed
from objdsl.fused.head import Head, Precision
from objdsl.fused.kernels import TORCH, Kernels, Name, choose
from objdsl.fused.run import Run, Weighted, sizes_of
from objdsl.fused.sequence_parallel import SequenceParallel
from objdsl.ir.columns import of_policy
from objdsl.ir.nodes import Expr
from objdsl.ir.objective import Objective as Formula
from objdsl.step import Step
from objdsl.step.inputs import check_names, first, shown
from objdsl.step.values import Values

# Schedules whose weights are final as soon as a token's own log-probability is known.
_AT_ONCE: tuple[Schedule, ...] = ("one pass", "one pass, whole responses")


_NO_INPUTS: Mapping[str, Tensor] = MappingProxyType({})


class FusedLoss:
    """An objective over a language-model head.

    Args:
        formula: of the objective.
        params: its hyper-parameters.
        objective: gives its weights, for log-probabilities and rows of a step.
    """

    fewest_tokens = FEWEST_TOKENS
    """The fewest tokens of a chunk, however small the budget."""

    def __init__(self, formula: Formula, params: Mapping[str, float], objective: Weighted) -> None:
        self.formula, self.params, self.objective = formula, params, objective

    @cached_property
    def coupled(self) -> Coupled:
        return coupled_weights(self.formula)

    @cached_property
    def coupled_afterwards(self) -> Coupled:
        """The coupling once `couple` has computed the values that couple responses."""
        return coupled_weights(self.formula, statistics=True)

    @cached_property
    def kernel(self) -> tuple[Kernel, Any] | None:
        try:
            return load_kernel(self.formula)
        except NotElementwiseError:
            return None

    def __call__(
        self,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        step: Step,
        trained: Mapping[str, Tensor],
        *,
        bias: Tensor | None,
        temperature: float,
        softcap: float | None,
        kept: Tensor | None,
        precision: Precision,
        kernels: Name | None,
        schedule: Schedule | None,
        budget: int,
        sequence_parallel: SequenceParallel | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        """The loss, the value, the reports and the log-probabilities; see `Objective.fused`."""
        coupled = self.coupled_afterwards if step.coupled else self.coupled
        self._check_names(trained)
        tail = 2 if step.layout == "padded" else 1
        shape = tuple(step.mask.shape) if tail == 2 else (int(step.lengths.sum()),)
        local_shape = shape if sequence_parallel is None else tuple(sequence_parallel.places.shape)
        if tuple(hidden.shape[:-1]) != local_shape or tuple(tokens.shape) != local_shape:
            raise InputError(
                f"hidden must be [{', '.join(map(str, local_shape))}, H] and tokens the same "
                f"without H, not {list(hidden.shape)} and {list(tokens.shape)}"
            )
        live = step.mask if tail == 2 and sequence_parallel is None else None
        _check_head(hidden, weight, tokens, live, bias, kept, temperature, softcap)
        with torch.no_grad():
            head = Head.under(
                hidden, weight, bias=bias, temperature=temperature, softcap=softcap, kept=kept,
                precision=precision,
            )  # fmt: skip
            frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
            sizes = sizes_of(head, step, frozen, sequence_parallel)
            sweeps = sequence_parallel is None and self._sweeps(kernels, head, schedule)
            if coupled.distribution is not None and sweeps:
                coupled = replace(coupled, log_prob=Coupling.TOKEN, distribution=None)
            chosen = plan(
                coupled, sizes, budget=budget, schedule=schedule, fewest_tokens=self.fewest_tokens
            )
            others = {name: x.detach() for name, x in trained.items()}
            at_once = sequence_parallel is None and chosen.schedule in _AT_ONCE
            factors = None
            if chosen.schedule == "one pass, scaled afterwards":
                factors = (
                    self._factor("share", step, others), self._factor("scale", step, others)
                )  # fmt: skip
            may_be_nonzero = self.may_be_nonzero(step, head.acc_dtype, others)
            if sequence_parallel is not None and may_be_nonzero is not None:
                may_be_nonzero = may_be_nonzero[sequence_parallel.places]
            run = Run(
                self.objective, step, coupled, others, may_be_nonzero, factors,
                self._kernels(kernels, head, step, others, at_once), sequence_parallel,
            )  # fmt: skip
            gradients, (value, weights, reports) = run(
                head, hidden.detach().flatten(0, -2), tokens.flatten(), chosen, frozen=frozen
            )
        grads = [
            (hidden, gradients.hidden.view(hidden.shape)),
            (weight, gradients.weight),
            (bias, gradients.bias),
            *((x, weights[name].clone()) for name, x in trained.items() if name in weights),
        ]
        pairs = [(x, grad.to(x.dtype)) for x, grad in grads if x is not None and grad is not None]
        loss = precomputed(value, *zip(*pairs, strict=True), once=True)
        return loss, value, reports, gradients.log_pi.view(shape)

    def _check_names(self, trained: Mapping[str, Tensor]) -> None:
        head_columns = of_policy(self.coupled.name)
        for name in head_columns:
            if name in trained:
                raise InputError(
                    f"fused computes {name!r} from `hidden` and `weight`; it is not given to it"
                )
        rest = [name for name in self.formula.trained if name not in head_columns]
        check_names(self.formula.name, trained, rest)

    # --- kernels ---------------------------------------------------------------------------------

    def _sweeps(self, wish: Name | None, head: Head, schedule: Schedule | None) -> bool:
        """Whether a kernel applies the weights of the vocabulary, so that a schedule need not."""
        if choose(wish, head.weight.device) == "torch" or self.kernel is None:
            return False
        return schedule in (None, *_AT_ONCE)

    def _kernels(
        self,
        wish: Name | None,
        head: Head,
        step: Step,
        others: Mapping[str, Tensor],
        at_once: bool,
    ) -> Kernels:
        """What is done to logits: with the objective in it, where that needs single tokens, and
        weights are used as soon as they are known (`at_once`)."""
        if choose(wish, head.weight.device) == "torch":
            return TORCH
        from objdsl.fused import triton

        if self.kernel is None or not at_once:
            return triton.TritonKernels()
        return triton.with_objective(*self.kernel, step, self.params, others, head)

    # --- parts of the weights --------------------------------------------------------------------

    @cached_property
    def _parts(self) -> dict[str, Values]:
        """Expressions that weights are made of: `share` and `scale`, if they separate;
        `may_be_nonzero`, which holds where there may be a weight."""
        parts: dict[str, Expr] = {}
        if self.coupled.may_be_nonzero is not None:
            parts["may_be_nonzero"] = self.coupled.may_be_nonzero
        if self.coupled.separated is not None:
            parts["share"] = self.coupled.separated.share
            parts["scale"] = self.coupled.separated.scale
        return {name: Values(self.formula, {name: x}, self.params) for name, x in parts.items()}

    def may_be_nonzero(
        self, step: Step, dtype: torch.dtype, others: Mapping[str, Tensor] = _NO_INPUTS
    ) -> Tensor | None:
        """`[N * T]` or `[M]`, the tokens that may have a weight, as far as data say so."""
        if "may_be_nonzero" not in self._parts:
            return None
        values = self._parts["may_be_nonzero"](step, dtype, others)
        return values["may_be_nonzero"].flatten() != 0

    def _factor(
        self, name: str, step: Step, others: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """A factor of the weights, as a function of the log-probabilities of the flattened rows."""
        values, head_columns = self._parts[name], of_policy(self.coupled.name)[0]

        def factor(log_pi: Tensor) -> Tensor:
            shaped = log_pi.view(step.mask.shape) if step.layout == "padded" else log_pi
            return values(step, log_pi.dtype, {**others, head_columns: shaped})[name].flatten()

        return factor


def _check_head(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    live: Tensor | None,
    bias: Tensor | None,
    kept: Tensor | None,
    temperature: float,
    softcap: float | None,
) -> None:
    """What a language-model head is made of; see `Objective.fused`.

    Args:
        live: where tokens are no padding; None for everywhere.

    Raises:
        InputError: a shape, type or device does not fit, an id is outside of the vocabulary (seen
            on a CPU alone), or a temperature or a cap is not above 0.
    """
    tensors = {"hidden": hidden, "weight": weight, "tokens": tokens, "bias": bias, "kept": kept}
    for name, x in tensors.items():
        if x is not None and x.device != hidden.device:
            raise InputError(f"{name} is on {x.device}, but hidden on {hidden.device}")
    if not hidden.is_floating_point() or not weight.is_floating_point():
        raise InputError(f"hidden and weight must be floats, not {hidden.dtype}, {weight.dtype}")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise InputError(
            f"weight must be [V, {hidden.shape[-1]}], as wide as hidden, not {list(weight.shape)}"
        )
    vocabulary = len(weight)
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"tokens must be whole numbers, not {tokens.dtype}")
    if bias is not None and bias.shape != (vocabulary,):
        raise InputError(
            f"bias must be [{vocabulary}], one number for each logit, not {list(bias.shape)}"
        )
    if kept is not None and (kept.shape != (*tokens.shape, vocabulary) or kept.dtype != torch.bool):
        wanted = ", ".join(map(str, (*tokens.shape, vocabulary)))
        raise InputError(
            f"kept must be a bool tensor [{wanted}], not {kept.dtype} {list(kept.shape)}"
        )
    for name, number in (("temperature", temperature), ("softcap", softcap)):
        if number is not None and not 0 < number < math.inf:
            raise InputError(f"{name} must be a number above 0, not {number:g}")
    wrong = (tokens < 0) | (tokens >= vocabulary)
    wrong = wrong & live if live is not None else wrong
    if tokens.is_cpu and bool(wrong.any()):
        at = first(wrong)
        raise InputError(
            f"tokens has the id {shown(tokens, at)} at {at}, outside of a vocabulary of "
            f"{vocabulary}"
        )
