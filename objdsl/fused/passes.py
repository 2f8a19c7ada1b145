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

from objdsl.fused.head import SLICE, Head, accumulate, chunks, matmul, slices
from objdsl.fused.kernels import TORCH, Kernels, Weigh
from objdsl.ir.nodes import IMPOSSIBLE


@dataclass(eq=False)
class Gradients:
    """The gradient of J, not of the loss.

    Attributes:
        log_pi: `[M]`, the log-probabilities, as they were computed on the way.
        hidden: `[M, H]`, as wide as `hidden` was.
        weight: `[V, H]`, wide where it is summed up over chunks; None for a frozen head.
        bias: `[V]`, wide; None without a bias.
    """

    log_pi: Tensor
    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(
        cls, head: Head, hidden: Tensor, *, frozen: bool, written_once: bool = False
    ) -> Gradients:
        wide = {"dtype": head.wide, "device": hidden.device}
        weight = None
        if not frozen:
            dtype = head.weight.dtype if written_once and not head.rest else head.wide
            weight = torch.zeros(head.weight.shape, dtype=dtype, device=hidden.device)
        bias = None
        if head.bias is not None and not frozen:
            bias = torch.zeros(head.bias.shape, **wide)  # type: ignore[call-overload]
        log_pi = torch.zeros(len(hidden), **wide)  # type: ignore[call-overload]
        return cls(log_pi, torch.zeros_like(hidden), weight, bias)

    def apart(self) -> Gradients:
        """The same, with sums of their own over tokens."""
        weight = None if self.weight is None else torch.zeros_like(self.weight)
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        return Gradients(self.log_pi, self.hidden, weight, bias)

    def take(self, apart: Gradients, rows: Tensor, scale: Tensor) -> None:
        """Adds sums over rows, scaled; and scales what was filled in for these rows.

        Args:
            apart: left behind at 0.
            scale: `[1]`.
        """
        scaled = scale * self.hidden[rows]
        self.hidden[rows] = scaled.to(self.hidden.dtype)
        for mine, other in ((self.weight, apart.weight), (self.bias, apart.bias)):
            if mine is not None and other is not None:
                mine.addcmul_(other, scale.to(mine.dtype))
                other.zero_()


def one_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weigh: Weigh,
    *,
    silent: Iterable[Tensor] = (),
    width: int = SLICE,
    frozen: bool = False,
    kernels: Kernels = TORCH,
) -> Gradients:
    """The gradient in the forward pass: three products.

    Args:
        pieces: the rows, in chunks whose weights need no log-probability of a later chunk.
        silent: chunks of rows without a weight, whose log-probabilities are wanted: one product.
            They come first, so that weights may depend on them.
        width: words at a time, where gradients by the logits are made narrow for the products.
        frozen: whether the head takes no gradient: two products.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    for rows in silent:
        _fill(made, head, hidden, tokens, rows, kernels)
    for rows in pieces:
        _chunk(made, head, hidden, tokens, rows, weigh, width, kernels)
    return made


def scaled_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    responses: Iterable[Tensor],
    weigh: Weigh,
    share: Weigh,
    scale: Weigh,
    *,
    chunk: int,
    silent: Iterable[Tensor] = (),
    width: int = SLICE,
    frozen: bool = False,
    kernels: Kernels = TORCH,
) -> Gradients:
    """The gradient in the forward pass, for weights `scale * share`: three products.

    What a response longer than a chunk adds to the head's gradient is summed up apart, with its
    shares for weights, and is scaled when the response is complete.

    Args:
        responses: rows of a single response, or of several that fit into a chunk.
        share: of a token, needs no log-probability of another.
        scale: needs all log-probabilities of the response, and is the same for all its tokens.
        chunk: tokens whose logits are held at a time.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    apart = made.apart()
    for rows in silent:
        _fill(made, head, hidden, tokens, rows, kernels)

    def finite(log_pi: Tensor) -> Tensor:
        shares = share(log_pi)
        return shares.where(shares.isfinite(), 0.0)

    for rows in responses:
        if len(rows) <= chunk:
            _chunk(made, head, hidden, tokens, rows, weigh, width, kernels)
            continue
        for some in chunks(rows, chunk):
            _chunk(apart, head, hidden, tokens, some, finite, width, kernels)
        # A scale of 0 is 0 whatever the shares are, as where a mask leaves out the response.
        total = scale(made.log_pi)[rows[:1]]
        known = share(made.log_pi)[rows].isfinite().all() | (total == 0)
        made.take(apart, rows, total.where(known, torch.nan))
    return made


def _fill(
    made: Gradients, head: Head, hidden: Tensor, tokens: Tensor, rows: Tensor, kernels: Kernels
) -> None:
    """Fills in log-probabilities alone."""
    kernels.fill(head, head.products(hidden[rows]), rows, tokens[rows], made.log_pi)


def _chunk(
    made: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    weigh: Weigh,
    width: int,
    kernels: Kernels,
) -> None:
    """Fills in log-probabilities and gradients of some rows. Three products."""
    here = hidden[rows]
    z = head.products(here)
    d = kernels.gradient(head, z, rows, tokens[rows], made.log_pi, weigh, here.dtype)
    _add(made, head, rows, here, d, width)


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
    kernels: Kernels = TORCH,
) -> Gradients:
    """All log-probabilities first, then the gradient by slices of the vocabulary: 1 + 3 products.

    The second pass leaves out the rows whose weight is 0, for whatever reason; and it writes each
    part of the head's gradient once.
    """
    made = Gradients.empty(head, hidden, frozen=frozen, written_once=True)
    lse = first_pass(made, head, hidden, tokens, rows, chunk, kernels)
    weights = weigh(made.log_pi).to(lse.dtype)
    live = rows[weights[rows] != 0]
    second_pass(made, head, hidden, tokens, live, lse, weights, width, kernels)
    return made


def first_pass(
    made: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    chunk: int,
    kernels: Kernels = TORCH,
) -> Tensor:
    """Fills in the log-probabilities; the log-sum-exps `[M]`. One product."""
    lse = torch.zeros_like(made.log_pi)
    for some in chunks(rows, chunk):
        z = head.products(hidden[some])
        made.log_pi[some], lse[some], _ = kernels.score(head, z, some, tokens[some])
        del z
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
    kernels: Kernels = TORCH,
) -> None:
    """Fills in the gradients, `width` words at a time. Three products."""
    here, target, w, total = hidden[rows], tokens[rows], weights[rows], lse[rows]
    by_hidden = torch.zeros(here.shape, dtype=head.wide, device=here.device)
    for words in slices(len(head.weight), width):
        z = head.products(here, words)
        d = kernels.slice_gradient(head, z, rows, words, target, total, w, here.dtype)
        narrow = d.to(hidden.dtype)
        accumulate(by_hidden, narrow, head.weight[words])
        if made.weight is not None:
            made.weight[words] = matmul(narrow.T, here, head.wide)
        if made.bias is not None:
            made.bias[words] = d.sum(0, dtype=head.wide)
        del z, d, narrow  # before the next slice takes as much
    made.hidden[rows] = by_hidden.to(hidden.dtype)


WeighWords = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor]]


def word_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weigh: WeighWords,
    *,
    width: int = SLICE,
    frozen: bool = False,
) -> Gradients:
    """One pass for an objective with weights for every word: entropy, exact divergences.

    Args:
        weigh: of the rows, their log-probabilities `[C]` and distributions `[C, V]`: the weights
            by both, the first of which may be None.
    """
    made = Gradients.empty(head, hidden, frozen=frozen)
    for rows in pieces:
        here, target = hidden[rows], tokens[rows, None]
        z, slope = head.logits(here, rows)
        log_p = z.sub_(z.logsumexp(-1, keepdim=True))
        if head.kept is not None:
            log_p.clamp_(min=IMPOSSIBLE)
        made.log_pi[rows] = log_p.gather(-1, target).squeeze(-1)
        w, words = weigh(rows, made.log_pi[rows], log_p)
        total = words.sum(-1, dtype=head.wide)
        if w is not None:
            total += w
        # d log p_v / d z_u = [u = v] - p_u
        d = log_p.exp().mul_(-total[:, None]).add_(words)
        if w is not None:
            d.scatter_add_(1, target, w[:, None].to(d.dtype))
        _add(made, head, rows, here, head.by_logits(d, slope), width)
        del z, log_p, words, d, slope  # before the next chunk takes as much
    return made


def _add(made: Gradients, head: Head, rows: Tensor, here: Tensor, d: Tensor, width: int) -> None:
    """Adds what a chunk contributes, from its gradient by the logits.

    Where products are narrow, a slice of the words at a time: the narrow copy of that gradient is
    half as large as the logits, a summand of the head's as large as the head.
    """
    if here.dtype == head.wide:
        width = d.shape[1]
    is_narrow = d.dtype == here.dtype  # then one product does for the hidden states
    if is_narrow:
        by_hidden = matmul(d, head.weight, head.wide)
    else:
        by_hidden = torch.zeros(here.shape, dtype=head.wide, device=here.device)
    for words in slices(len(head.weight), width):
        narrow = d[:, words].to(here.dtype)
        if not is_narrow:
            accumulate(by_hidden, narrow, head.weight[words])
        if made.weight is not None:
            accumulate(made.weight[words], narrow.T, here)
    made.hidden[rows] = by_hidden.to(here.dtype)
    if made.bias is not None:
        made.bias += d.sum(0, dtype=head.wide)
