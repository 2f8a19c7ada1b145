"""The schedules: hidden states in, the gradients of an objective out.

All work on packed tokens, `hidden [M, H]` and `tokens [M]`, of which `rows` names those to compute.
What the objective says of log-probabilities comes from a callback, so that these functions know
nothing of formulas:

    weigh(log_pi [M]) -> w [M],   dJ / dlog pi

which may be asked while only some log-probabilities are there yet; only the weights of those are
used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from objdsl.fused.head import Head, chunks, matmul

Weigh = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Gradients:
    """The gradient of J, not of the loss.

    Attributes:
        log_pi: `[M]`, the log-probabilities, as they were computed on the way.
        hidden: `[M, H]`, as wide as `hidden` was.
        weight: `[V, H]`, wide; None for a frozen head.
        bias: `[V]`, wide; None without a bias.
    """

    log_pi: Tensor
    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(cls, head: Head, hidden: Tensor, *, frozen: bool) -> Gradients:
        wide = {"dtype": head.wide, "device": hidden.device}
        weight = None if frozen else torch.zeros(head.weight.shape, **wide)  # type: ignore[call-overload]
        bias = None
        if head.bias is not None and not frozen:
            bias = torch.zeros(head.bias.shape, **wide)  # type: ignore[call-overload]
        log_pi = torch.zeros(len(hidden), **wide)  # type: ignore[call-overload]
        return cls(log_pi, torch.zeros_like(hidden), weight, bias)


def one_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weigh: Weigh,
    *,
    silent: Iterable[Tensor] = (),
    frozen: bool = False,
) -> Gradients:
    """The gradient in the forward pass: three products.

    Args:
        pieces: the rows, in chunks whose weights need no log-probability of a later chunk.
        silent: chunks of rows without a weight, whose log-probabilities are wanted: one product.
            They come first, so that weights may depend on them.
        frozen: whether the head takes no gradient: two products.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    for rows in silent:
        z, _ = head.logits(hidden[rows], rows)
        made.log_pi[rows] = _exponentials(z, tokens[rows])[0]
    for rows in pieces:
        here, target = hidden[rows], tokens[rows]
        z, slope = head.logits(here, rows)
        made.log_pi[rows], _, total = _exponentials(z, target)
        w = weigh(made.log_pi)[rows].to(z.dtype)
        d = z.mul_((-w / total)[:, None])
        d.scatter_add_(1, target[:, None], w[:, None])
        _add(made, head, rows, here, head.by_logits(d, slope))
        del z, d, slope  # before the next chunk takes as much
    return made


def two_passes(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    weigh: Weigh,
    *,
    chunk: int,
    width: int,
    frozen: bool = False,
) -> Gradients:
    """All log-probabilities first, then the gradient by slices of the vocabulary: 1 + 3 products.

    The second pass leaves out the rows whose weight is 0, for whatever reason; and it writes each
    part of the head's gradient once.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    lse = first_pass(made, head, hidden, tokens, rows, chunk)
    weights = weigh(made.log_pi).to(lse.dtype)
    second_pass(made, head, hidden, tokens, rows[weights[rows] != 0], lse, weights, width)
    return made


def first_pass(
    made: Gradients, head: Head, hidden: Tensor, tokens: Tensor, rows: Tensor, chunk: int
) -> Tensor:
    """Fills in the log-probabilities; the log-sum-exps `[M]`. One product."""
    lse = torch.zeros_like(made.log_pi)
    for some in chunks(rows, chunk):
        z, _ = head.logits(hidden[some], some)
        made.log_pi[some], lse[some], _ = _exponentials(z, tokens[some])
    return lse


def second_pass(
    made: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    lse: Tensor,
    weights: Tensor,
    width: int,
) -> None:
    """Fills in the gradients, `width` words at a time. Three products."""
    here, target, w = hidden[rows], tokens[rows], weights[rows, None]
    by_hidden = torch.zeros(here.shape, dtype=head.wide, device=here.device)
    for start in range(0, len(head.weight), width):
        words = slice(start, start + width)
        z, slope = head.logits_of(here, rows, words)
        d = z.sub_(lse[rows, None]).exp_().mul_(-w)
        inside = (target >= start) & (target < start + d.shape[1])
        place = (target - start).clamp(0, d.shape[1] - 1)
        d.scatter_add_(1, place[:, None], torch.where(inside[:, None], w, 0.0))
        d = head.by_logits(d, slope)
        narrow = d.to(hidden.dtype)
        by_hidden += matmul(narrow, head.weight[words], head.wide)
        if made.weight is not None:
            made.weight[words] = matmul(narrow.T, here, head.wide)
        if made.bias is not None:
            made.bias[words] = d.sum(0)
    made.hidden[rows] = by_hidden.to(hidden.dtype)


WeighWords = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor]]


def word_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weigh: WeighWords,
    *,
    frozen: bool = False,
) -> Gradients:
    """One pass for an objective with weights for every word: entropy, exact divergences.

    Args:
        weigh: of the rows, their log-probabilities `[C]` and distributions `[C, V]`: the weights
            by both, the first of which may be None.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    for rows in pieces:
        here, target = hidden[rows], tokens[rows]
        z, slope = head.logits(here, rows)
        log_p = z.sub_(z.logsumexp(-1, keepdim=True))
        made.log_pi[rows] = log_p.gather(-1, target[:, None]).squeeze(-1)
        w, words = weigh(rows, made.log_pi[rows], log_p)
        d = words.to(z.dtype)
        if w is not None:
            d = d.scatter_add(1, target[:, None], w[:, None].to(z.dtype))
        # d log p_v / d z_u = [u = v] - p_u
        d = d - log_p.exp() * d.sum(-1, keepdim=True)
        _add(made, head, rows, here, head.by_logits(d, slope))
    return made


def _exponentials(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turns logits into `exp(z - max)`, in place: a second matrix of that size is what memory is
    short of.

    Returns:
        `[C]` each: the log-probability of the tokens and the log-sum-exp, from the same logits; and
        the sum of the exponentials.
    """
    most, logit = z.amax(-1), z.gather(-1, target[:, None]).squeeze(-1)
    total = z.sub_(most[:, None]).exp_().sum(-1)
    lse = most + total.log()
    return logit - lse, lse, total


def _add(made: Gradients, head: Head, rows: Tensor, here: Tensor, d: Tensor) -> None:
    """Adds what a chunk contributes, from its gradient by the logits."""
    narrow = d.to(here.dtype)
    made.hidden[rows] = matmul(narrow, head.weight, head.wide).to(here.dtype)
    if made.weight is not None and here.dtype == head.wide:
        made.weight.addmm_(narrow.T, here)
    elif made.weight is not None:
        made.weight += matmul(narrow.T, here, head.wide)
    if made.bias is not None:
        made.bias += d.sum(0)
