"""What is done to the logits of a chunk: all work besides products that grows with the vocabulary.

Kernels start from the products `z = hidden @ weight.T` and shape logits of them (bias, cap,
temperature, kept words) as `Head` does; they may do so in place, so that `z` is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from objdsl.fused.head import Head

Weigh = Callable[[Tensor], Tensor]


class Kernels(Protocol):
    """The three things that schedules do to products `z`."""

    def score(self, head: Head, z: Tensor, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities of the tokens and the log-sum-exps, `[C]`, of the same logits.

        Args:
            z: `[C, V]`, wide.
            rows: `[C]`, which tokens these are.
            target: `[C]`, their words.
        """

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh
    ) -> Tensor:
        """Fills in the log-probabilities of the rows, then forms the gradient of J by `z`.

        Args:
            log_pi: `[M]`, of all tokens.
            weigh: asked for the weights `[M]` as soon as those of the rows can be told.

        Returns:
            `[C, V]`, wide, or as narrow as the head.
        """

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, words: slice, target: Tensor, lse: Tensor,
        w: Tensor,
    ) -> Tensor:  # fmt: skip
        """The gradient of J by the products of some words, once everything is known.

        Args:
            z: `[C, S]`, of these words.
            lse: `[C]`, of all words.
            w: `[C]`, the weights.
        """


class TorchKernels:
    """Tensor operations, for any device, in place where they can be: a second matrix as large as
    the logits is what memory is short of."""

    def score(self, head: Head, z: Tensor, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        z, _ = head.shaped(z, rows)
        log_pi, lse, _ = _exponentials(z, target)
        return log_pi, lse

    def gradient(
        self, head: Head, z: Tensor, rows: Tensor, target: Tensor, log_pi: Tensor, weigh: Weigh
    ) -> Tensor:
        z, slope = head.shaped(z, rows)
        log_pi[rows], _, total = _exponentials(z, target)
        w = weigh(log_pi)[rows].to(z.dtype)
        d = z.mul_((-w / total)[:, None])
        d.scatter_add_(1, target[:, None], w[:, None])
        return head.by_logits(d, slope)

    def slice_gradient(
        self, head: Head, z: Tensor, rows: Tensor, words: slice, target: Tensor, lse: Tensor,
        w: Tensor,
    ) -> Tensor:  # fmt: skip
        z, slope = head.shaped(z, rows, words)
        w = w[:, None]
        d = z.sub_(lse[:, None]).exp_().mul_(-w)
        inside = (target >= words.start) & (target < words.start + d.shape[1])
        place = (target - words.start).clamp(0, d.shape[1] - 1)
        d.scatter_add_(1, place[:, None], torch.where(inside[:, None], w, 0.0))
        return head.by_logits(d, slope)


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
