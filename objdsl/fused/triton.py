"""Kernels in Triton, for a GPU; on a CPU they run in Triton's interpreter alone.

A program works on one token: it sweeps over the vocabulary, once for the log-sum-exp and once for
the gradient, which it writes over the raw logits, in the dtype in which the next matmuls read it.
Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from objdsl.emit import triton_kernels
from objdsl.emit.stages import Input, Kind
from objdsl.emit.triton_source import Kernel
from objdsl.fused.head import ALL, Head
from objdsl.fused.kernels import Scores, Totals, WeightFn
from objdsl.ir.indices import SCALAR, TOKEN, VOCAB

BLOCK, WARPS = 4096, 8
"""Logits that a program reads at a time: 16 for each of its 256 threads, four loads of 16 bytes."""


class TritonKernels:
    """Kernels for any objective, whose weights PyTorch computes."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        log_pi, lse = z.new_empty(len(z)), z.new_empty(len(z))
        entropies = z.new_empty(len(z)) if entropy else None
        _launch(triton_kernels.score, head, z, (_aligned(rows), target, log_pi, lse, entropies))
        return Scores(log_pi, lse, entropies)

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        log_pi[rows] = self.score(head, z, rows, target).log_pi

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor,
        weight_fn: WeightFn, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        log_pi[rows], lse, _ = self.score(head, z, rows, target)
        w = weight_fn(log_pi)[rows].to(z.dtype)
        return self.slice_gradient(head, z, rows, ALL, target, lse, w, dtype)

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, vocab: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        grad = _output_view(z, dtype)
        arguments = (grad, _aligned(rows), target, lse, w, vocab.start or 0)
        _launch(triton_kernels.gradient, head, z, arguments, vocab, grad_stride=grad.stride(0))
        return grad

    def totals(self) -> Totals | None:
        return None


class ObjectiveKernels(TritonKernels):
    """One kernel from the raw logits to the gradient, with the objective in between.

    Args:
        kernel: what was emitted.
        head: its function.
        inputs: what it loads.
        terms: `[M, 1 + R + L]`, room for the terms of the value, of the reports and of derivatives
            by learned numbers, 0 at first; None if PyTorch computes those.
    """

    def __init__(
        self, kernel: Kernel, head: Any, inputs: list[Tensor], terms: Tensor | None
    ) -> None:
        self.kernel, self.head, self.inputs, self.terms = kernel, head, inputs, terms

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        self._run(head, z, None, rows, target, log_pi)

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor,
        weight_fn: WeightFn, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        grad = _output_view(z, dtype)
        self._run(head, z, grad, rows, target, log_pi)
        return grad

    def totals(self) -> Totals | None:
        if self.terms is None or self.kernel.reports is None:
            return None
        value, *rest = self.terms.sum(0).unbind()
        many = len(self.kernel.reports)
        reports = dict(zip(self.kernel.reports, rest[:many], strict=True))
        return value, dict(zip(self.kernel.learned, rest[many:], strict=True)), reports

    def _run(
        self,
        head: Head,
        z: Tensor,
        grad: Tensor | None,
        rows: Tensor,
        target: Tensor,
        log_pi: Tensor,
    ) -> None:
        terms = () if self.terms is None else (self.terms,)
        arguments = (grad, _aligned(rows), target, log_pi, *terms, *self.inputs)
        _launch(self.head, head, z, arguments, grad_stride=0 if grad is None else grad.stride(0))


class Step(Protocol):
    """The part of a step that is used here."""

    @property
    def layout(self) -> str: ...
    @property
    def lengths(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def tokens(self) -> dict[str, Tensor]: ...
    @property
    def responses(self) -> dict[str, Tensor]: ...
    @property
    def scalars(self) -> dict[str, Tensor]: ...
    @property
    def environment(self) -> dict[str, Any]: ...


def with_objective(
    kernel: Kernel,
    function: Any,
    step: Step,
    params: Mapping[str, float],
    trained: Mapping[str, Tensor],
    head: Head,
) -> ObjectiveKernels:
    """The kernels of an objective for the rows of a step.

    Args:
        kernel: what was emitted, and `function` of it.
        params: the hyper-parameters.
        trained: the trained inputs that the head does not compute.
    """
    inputs = _inputs(kernel, step, params, trained, head.acc_dtype)
    terms = None
    if kernel.reports is not None:
        many = step.mask.numel() if step.layout == "padded" else _packed(step)
        shape = many, 1 + len(kernel.reports) + len(kernel.learned)
        terms = torch.zeros(shape, dtype=head.acc_dtype, device=step.mask.device)
    return ObjectiveKernels(kernel, function, inputs, terms)


def _packed(step: Step) -> int:
    """How many packed tokens there are; asking `lengths` would wait for the device."""
    return len(next(iter(step.tokens.values()))) if step.tokens else int(step.lengths.sum())


def _inputs(
    kernel: Kernel,
    step: Step,
    params: Mapping[str, float],
    trained: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> list[Tensor]:
    """What a kernel loads, in the dtype of the logits: a number for each token `[M]` or `[N * T]`,
    for each vocabulary entry at each token, or for all."""
    padded, device = step.layout == "padded", step.mask.device
    data = {**step.tokens, **step.responses, **step.scalars}
    tables: dict[Kind, Mapping[str, Tensor | float]] = {
        "environment": {"length": step.lengths.to(dtype), **step.environment},
        "column": {**data, **trained},
        "stored": data,
        "param": params,
    }

    def flat(source: Input) -> Tensor:
        if (source.kind, source.key) == ("environment", "position"):
            places = torch.arange(1, step.mask.shape[1] + 1, dtype=dtype, device=device)
            places = places.expand(step.mask.shape)
            return places.flatten() if padded else places[step.mask]
        x = tables[source.kind][source.key]
        if not isinstance(x, Tensor):
            return torch.full((), x, dtype=dtype, device=device)
        x = x.to(dtype) if x.is_floating_point() else x
        if source.indices in (SCALAR, TOKEN, VOCAB):
            return x.flatten().contiguous()
        if padded:
            return x[:, None].expand(step.mask.shape).flatten()
        return x.repeat_interleave(step.lengths, output_size=_packed(step))

    return [_aligned(flat(source)) for source in kernel.inputs]


def _aligned(x: Tensor) -> Tensor:
    """The same numbers at a multiple of 16 bytes: Triton compiles again for tensors that are not,
    as parts of others may or may not be."""
    return x.clone() if x.data_ptr() % 16 else x


def _launch(
    kernel: Any, head: Head, z: Tensor, arguments: tuple[Any, ...], vocab: slice = ALL, **more: int
) -> None:
    """A program for each row of `z`. What is compiled depends on the types of the arguments, and on
    which of them are None or multiples of 16; not on any number."""
    if not len(z):
        return
    many = z.shape[1]
    block = min(BLOCK, 1 << (many - 1).bit_length())
    bias = None if head.bias is None else head.bias[vocab]
    kept = None if head.kept is None else head.kept[:, vocab]
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        kernel[(len(z),)](
            z,
            *arguments,
            bias=bias,
            kept=kept,
            softcap=None if head.softcap is None else z.new_full((), head.softcap),
            temperature=None if head.temperature == 1 else z.new_full((), head.temperature),
            stride=z.stride(0),
            kept_stride=0 if kept is None else kept.stride(0),
            V=many,
            BLOCK=block,
            num_warps=max(1, min(WARPS, block * WARPS // BLOCK)),
            **more,
        )


def _output_view(z: Tensor, dtype: torch.dtype) -> Tensor:
    """`[C, V]` of a dtype that is no larger, in the memory of `z`: the first part of each row."""
    return z if z.dtype == dtype else z.view(dtype)[:, : z.shape[1]]
