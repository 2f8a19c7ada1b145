"""The operations on the logits of a chunk: all work besides matmuls that grows with the vocabulary.

Kernels start from the raw logits `z = hidden @ weight.T` and apply bias, softcap, temperature and
the sampler's mask as `Head` does; they may do so in place, so that `z` is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from objdsl.fused.head import Head

WeightFn = Callable[[Tensor], Tensor]
Totals = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]
"""The value, its derivatives by learned numbers, and the reports."""
Name = Literal["torch", "triton"]


class Scores(NamedTuple):
    """Log-probabilities, log-sum-exps and entropies (or None) at the tokens of a chunk, `[C]` each,
    from the same logits."""

    log_pi: Tensor
    lse: Tensor
    entropy: Tensor | None


def choose(wish: Name | None, device: torch.device) -> Name:
    """The kernels for a device: Triton's on a GPU, if it is installed.

    Raises:
        ValueError: Triton is requested, but is not installed, or there is no GPU.
    """
    if wish is None:
        return "triton" if device.type == "cuda" and find_spec("triton") else "torch"
    if wish == "triton" and not find_spec("triton"):
        raise ValueError("kernels='triton': there is no package triton")
    if wish == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"kernels='triton' need a GPU, and this is {device}; "
            "with TRITON_INTERPRET=1 in the environment an interpreter runs them, slowly"
        )
    return wish


class Kernels(Protocol):
    """The operations of schedules on raw logits `z`."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        """Scores of the tokens.

        Args:
            z: `[C, V]`, in `acc_dtype`.
            rows: `[C]`, which tokens these are.
            target: `[C]`, their ids.
            entropy: whether entropies are wanted.
        """

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        """Fills in the log-probabilities, of rows without a weight.

        Args:
            log_pi: `[M]`, of all tokens.
        """

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor,
        weight_fn: WeightFn, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """Fills in the log-probabilities, then forms the gradient of J by `z`.

        Args:
            weight_fn: called for the weights `[M]` once log-probabilities of the rows are known.
            dtype: in which matmuls will read the gradient.

        Returns:
            `[C, V]`, in `acc_dtype` or `dtype`.
        """

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, vocab: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """The gradient of J by the raw logits of a slice of the vocabulary, once weights are known.

        Args:
            z: `[C, S]`, of the slice.
            lse: `[C]`, over the whole vocabulary.
            w: `[C]`, the weights.

        Returns:
            `[C, S]`, in `acc_dtype` or `dtype`.
        """

    def totals(self) -> Totals | None:
        """Value, derivatives and reports, if the kernels computed them along the way."""


class TorchKernels:
    """Tensor operations, for any device, in place where possible: memory may not suffice for a
    second matrix of the size of the logits."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        z, _ = head.shape_logits(z, rows)
        log_pi, lse, total = _exponentials(z, target)
        entropies = torch.special.entr(z.div_(total[:, None]), out=z).sum(-1) if entropy else None
        return Scores(log_pi, lse, entropies)

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        log_pi[rows] = self.score(head, z, rows, target).log_pi

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor,
        weight_fn: WeightFn, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        z, softcap_grad = head.shape_logits(z, rows)
        log_pi[rows], _, total = _exponentials(z, target)
        w = weight_fn(log_pi)[rows].to(z.dtype)
        grad = z.mul_((-w / total)[:, None])
        grad.scatter_add_(1, target[:, None], w[:, None])
        return head.grad_raw_logits(grad, softcap_grad)

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, vocab: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        z, softcap_grad = head.shape_logits(z, rows, vocab)
        w = w[:, None]
        grad = z.sub_(lse[:, None]).exp_().mul_(-w)
        inside = (target >= vocab.start) & (target < vocab.start + grad.shape[1])
        column = (target - vocab.start).clamp(0, grad.shape[1] - 1)
        grad.scatter_add_(1, column[:, None], torch.where(inside[:, None], w, 0.0))
        return head.grad_raw_logits(grad, softcap_grad)

    def totals(self) -> Totals | None:
        return None


def _exponentials(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turns logits into `exp(z - max)`, in place.

    Returns:
        `[C]` each: the log-probability of the tokens and the log-sum-exp, from the same logits; and
        the sum of the exponentials.
    """
    largest, logit = z.amax(-1), z.gather(-1, target[:, None]).squeeze(-1)
    total = z.sub_(largest[:, None]).exp_().sum(-1)
    lse = largest + total.log()
    return logit - lse, lse, total


TORCH = TorchKernels()
