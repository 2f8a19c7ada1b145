"""What is done to the logits of a chunk: all work besides products that grows with the vocabulary.

Kernels start from the products `z = hidden @ weight.T` and shape logits of them (bias, cap,
temperature, kept words) as `Head` does; they may do so in place, so that `z` is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from objdsl.fused.head import Head

Weigh = Callable[[Tensor], Tensor]
Said = tuple[Tensor, dict[str, Tensor]]
Name = Literal["torch", "triton"]


class Scores(NamedTuple):
    """Of the tokens of a chunk, `[C]` each and from the same logits: their log-probabilities, the
    log-sum-exps, and the entropies of the distributions at them, or None."""

    log_pi: Tensor
    lse: Tensor
    entropy: Tensor | None


def choose(wish: Name | None, device: torch.device) -> Name:
    """Which kernels run on a device: Triton's on a GPU, if it is there.

    Raises:
        ValueError: Triton is wished for, but is not there, or there is no GPU.
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
    """What schedules do to products `z`."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        """What can be told of the tokens.

        Args:
            z: `[C, V]`, wide.
            rows: `[C]`, which tokens these are.
            target: `[C]`, their words.
            entropy: whether entropies are wanted.
        """

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        """Fills in the log-probabilities, of rows without a weight.

        Args:
            log_pi: `[M]`, of all tokens.
        """

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """Fills in the log-probabilities, then forms the gradient of J by `z`.

        Args:
            weigh: asked for the weights `[M]` as soon as those of the rows can be told.
            dtype: in which products will read the gradient.

        Returns:
            `[C, V]`, wide or of that type.
        """

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, words: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """The gradient of J by the products of some words, once everything is known.

        Args:
            z: `[C, S]`, of these words.
            lse: `[C]`, of all words.
            w: `[C]`, the weights.

        Returns:
            `[C, S]`, wide or of `dtype`.
        """

    def said(self) -> Said | None:
        """Value and reports, where the kernels computed them on the way."""


class TorchKernels:
    """Tensor operations, for any device, in place where they can be: a second matrix as large as
    the logits is what memory is short of."""

    def score(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, *, entropy: bool = False
    ) -> Scores:
        z, _ = head.shaped(z, rows)
        log_pi, lse, total = _exponentials(z, target)
        spread = torch.special.entr(z.div_(total[:, None]), out=z).sum(-1) if entropy else None
        return Scores(log_pi, lse, spread)

    def fill(self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor) -> None:
        log_pi[rows] = self.score(head, z, rows, target).log_pi

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        z, slope = head.shaped(z, rows)
        log_pi[rows], _, total = _exponentials(z, target)
        w = weigh(log_pi)[rows].to(z.dtype)
        d = z.mul_((-w / total)[:, None])
        d.scatter_add_(1, target[:, None], w[:, None])
        return head.by_logits(d, slope)

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, words: slice, target: Tensor, lse: Tensor,
        w: Tensor, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        z, slope = head.shaped(z, rows, words)
        w = w[:, None]
        d = z.sub_(lse[:, None]).exp_().mul_(-w)
        inside = (target >= words.start) & (target < words.start + d.shape[1])
        place = (target - words.start).clamp(0, d.shape[1] - 1)
        d.scatter_add_(1, place[:, None], torch.where(inside[:, None], w, 0.0))
        return head.by_logits(d, slope)

    def said(self) -> Said | None:
        return None


def _exponentials(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turns logits into `exp(z - max)`, in place.

    Returns:
        `[C]` each: the log-probability of the tokens and the log-sum-exp, from the same logits; and
        the sum of the exponentials.
    """
    most, logit = z.amax(-1), z.gather(-1, target[:, None]).squeeze(-1)
    total = z.sub_(most[:, None]).exp_().sum(-1)
    lse = most + total.log()
    return logit - lse, lse, total


TORCH = TorchKernels()
