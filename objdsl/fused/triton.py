"""Kernels in Triton, for a GPU; on a CPU they run in Triton's interpreter alone.

A program works on one token: it sweeps over the words of its row, once for the log-sum-exp and once
for the gradient, which it writes where the products are, as narrow as the next products read it.
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
from objdsl.fused.kernels import Said, Scores, Weigh
from objdsl.ir.indices import SCALAR, TOKEN, WORD

BLOCK, WARPS = 4096, 8
"""Words that a program reads at a time: 16 for each of its 256 threads, four loads of 16 bytes."""


class TritonKernels:
    """Kernels for any objective, whose weights PyTorch computes."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        log_pi, lse = z.new_empty(len(z)), z.new_empty(len(z))
        spread = z.new_empty(len(z)) if entropy else None
        _launch(triton_kernels.score, head, z, (_aligned(rows), target, log_pi, lse, spread))
        return Scores(log_pi, lse, spread)

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        log_pi[rows] = self.score(head, z, rows, target).log_pi

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        log_pi[rows], lse, _ = self.score(head, z, rows, target)
        w = weigh(log_pi)[rows].to(z.dtype)
        return self.slice_gradient(head, z, rows, ALL, target, lse, w, dtype)

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, words: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        d = _room(z, dtype)
        arguments = (d, _aligned(rows), target, lse, w, words.start or 0)
        _launch(triton_kernels.gradient, head, z, arguments, words, d_stride=d.stride(0))
        return d

    def said(self) -> Said | None:
        return None


class ObjectiveKernels(TritonKernels):
    """One kernel from the products to the gradient, with the objective in between.

    Args:
        kernel: what was emitted.
        head: its function.
        inputs: what it loads.
        terms: `[M, 1 + R]`, room for the terms of the value and of the reports, 0 at first; None if
            PyTorch computes those.
    """

    def __init__(
        self, kernel: Kernel, head: Any, inputs: list[Tensor], terms: Tensor | None
    ) -> None:
        self.kernel, self.head, self.inputs, self.terms = kernel, head, inputs, terms

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        self._run(head, z, None, rows, target, log_pi)

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        d = _room(z, dtype)
        self._run(head, z, d, rows, target, log_pi)
        return d

    def said(self) -> Said | None:
        if self.terms is None or self.kernel.reports is None:
            return None
        value, *reports = self.terms.sum(0).unbind()
        return value, dict(zip(self.kernel.reports, reports, strict=True))

    def _run(
        self, head: Head, z: Tensor, d: Tensor | None, rows: Tensor, target: Tensor, log_pi: Tensor
    ) -> None:
        terms = () if self.terms is None else (self.terms,)
        arguments = (d, _aligned(rows), target, log_pi, *terms, *self.inputs)
        _launch(self.head, head, z, arguments, d_stride=0 if d is None else d.stride(0))


class Step(Protocol):
    """What is used of a step."""

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
        trained: the trained inputs that do not come out of the head.
    """
    inputs = _inputs(kernel, step, params, trained, head.wide)
    terms = None
    if kernel.reports is not None:
        many = step.mask.numel() if step.layout == "padded" else _packed(step)
        shape = many, 1 + len(kernel.reports)
        terms = torch.zeros(shape, dtype=head.wide, device=step.mask.device)
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
    """What a kernel loads, as wide as the logits: a number for each token `[M]` or `[N * T]`, for
    each word at each token, or for all."""
    padded, device = step.layout == "padded", step.mask.device
    data = {**step.tokens, **step.responses, **step.scalars}
    tables: dict[Kind, Mapping[str, Tensor | float]] = {
        "environment": {"length": step.lengths.to(dtype), **step.environment},
        "column": {**data, **trained},
        "stored": data,
        "param": params,
    }

    def flat(one: Input) -> Tensor:
        if (one.kind, one.key) == ("environment", "position"):
            places = torch.arange(1, step.mask.shape[1] + 1, dtype=dtype, device=device)
            places = places.expand(step.mask.shape)
            return places.flatten() if padded else places[step.mask]
        x = tables[one.kind][one.key]
        if not isinstance(x, Tensor):
            return torch.full((), x, dtype=dtype, device=device)
        x = x.to(dtype) if x.is_floating_point() else x
        if one.indices in (SCALAR, TOKEN, WORD):
            return x.flatten().contiguous()
        if padded:
            return x[:, None].expand(step.mask.shape).flatten()
        return x.repeat_interleave(step.lengths, output_size=_packed(step))

    return [_aligned(flat(one)) for one in kernel.inputs]


def _aligned(x: Tensor) -> Tensor:
    """The same numbers at a multiple of 16 bytes: Triton compiles again for tensors that are not,
    as parts of others may or may not be."""
    return x.clone() if x.data_ptr() % 16 else x


def _launch(
    kernel: Any, head: Head, z: Tensor, arguments: tuple[Any, ...], words: slice = ALL, **more: int
) -> None:
    """A program for each row of `z`. What is compiled depends on the types of the arguments, and on
    which of them are None or multiples of 16; not on any number."""
    if not len(z):
        return
    many = z.shape[1]
    block = min(BLOCK, 1 << (many - 1).bit_length())
    bias = None if head.bias is None else head.bias[words]
    kept = None if head.kept is None else head.kept[:, words]
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


def _room(z: Tensor, dtype: torch.dtype) -> Tensor:
    """`[C, V]` of a type, at most as wide, where `z` lies: the first part of each of its rows."""
    return z if z.dtype == dtype else z.view(dtype)[:, : z.shape[1]]
