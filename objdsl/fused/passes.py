"""The schedules: hidden states in, the gradients of an objective out.

All work on packed tokens, `hidden [M, H]` and `tokens [M]`, of which `rows` names those to compute.
The weights come from a callback, so that these functions know nothing of formulas:

    weight_fn(log_pi [M]) -> w [M],   dJ / dlog pi

It may be called while only some log-probabilities are known; only the weights of those are used.
"A matmul" below is one of tokens x hidden x vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from objdsl.fused.head import SLICE, Head, accumulate, chunks, matmul, slices
from objdsl.fused.kernels import TORCH, Kernels, WeightFn
from objdsl.ir.nodes import IMPOSSIBLE


@dataclass(eq=False)
class Gradients:
    """The gradient of J, not of the loss.

    Attributes:
        log_pi: `[M]`, the log-probabilities, as they were computed on the way.
        hidden: `[M, H]`, in the dtype of the hidden states.
        weight: `[V, H]`, in `acc_dtype` where chunks add up; None for a frozen head.
        bias: `[V]`, in `acc_dtype`; None without a bias.
    """

    log_pi: Tensor
    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(
        cls, head: Head, hidden: Tensor, *, frozen: bool, written_once: bool = False
    ) -> Gradients:
        options = {"dtype": head.acc_dtype, "device": hidden.device}
        weight = None
        if not frozen:
            dtype = head.weight.dtype if written_once and not head.rest else head.acc_dtype
            weight = torch.zeros(head.weight.shape, dtype=dtype, device=hidden.device)
        bias = None
        if head.bias is not None and not frozen:
            bias = torch.zeros(head.bias.shape, **options)  # type: ignore[call-overload]
        log_pi = torch.zeros(len(hidden), **options)  # type: ignore[call-overload]
        return cls(log_pi, torch.zeros_like(hidden), weight, bias)

    def accumulator(self) -> Gradients:
        """The same log-probabilities and states, with zeros for the sums over tokens."""
        weight = None if self.weight is None else torch.zeros_like(self.weight)
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        return Gradients(self.log_pi, self.hidden, weight, bias)

    def add_scaled(self, accumulator: Gradients, rows: Tensor, scale: Tensor) -> None:
        """Adds the sums that were accumulated for some rows, scaled, and scales the gradients of
        these rows.

        Args:
            accumulator: is 0 afterwards.
            scale: `[1]`.
        """
        scaled = scale * self.hidden[rows]
        self.hidden[rows] = scaled.to(self.hidden.dtype)
        for total, part in ((self.weight, accumulator.weight), (self.bias, accumulator.bias)):
            if total is not None and part is not None:
                total.addcmul_(part, scale.to(total.dtype))
                part.zero_()


def one_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weight_fn: WeightFn,
    *,
    unweighted: Iterable[Tensor] = (),
    width: int = SLICE,
    frozen: bool = False,
    kernels: Kernels = TORCH,
) -> Gradients:
    """The gradient in the forward pass: three matmuls.

    Args:
        pieces: the rows, in chunks whose weights need no log-probability of a later chunk.
        unweighted: chunks of rows without a weight, whose log-probabilities are wanted: one matmul.
            They come first, so that weights may depend on them.
        width: vocabulary entries at a time, where gradients are cast to the dtype of the states.
        frozen: whether the head takes no gradient: two matmuls.
    """
    grads = Gradients.empty(head, hidden, frozen=frozen)
    for rows in unweighted:
        _fill(grads, head, hidden, tokens, rows, kernels)
    for rows in pieces:
        _chunk(grads, head, hidden, tokens, rows, weight_fn, width, kernels)
    return grads


def scaled_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    responses: Iterable[Tensor],
    weight_fn: WeightFn,
    share: WeightFn,
    scale: WeightFn,
    *,
    chunk: int,
    unweighted: Iterable[Tensor] = (),
    width: int = SLICE,
    frozen: bool = False,
    kernels: Kernels = TORCH,
) -> Gradients:
    """The gradient in the forward pass, for weights `scale * share`: three matmuls.

    What a response longer than a chunk adds to the head's gradient is accumulated with its
    shares for weights, and is scaled when the response is complete.

    Args:
        responses: rows of a single response, or of several that fit into a chunk.
        share: of a token, needs no log-probability of a different one.
        scale: needs all log-probabilities of the response, and is the same for all its tokens.
        chunk: tokens whose logits are held at a time.
    """
    grads = Gradients.empty(head, hidden, frozen=frozen)
    accumulator = grads.accumulator()
    for rows in unweighted:
        _fill(grads, head, hidden, tokens, rows, kernels)

    def finite(log_pi: Tensor) -> Tensor:
        shares = share(log_pi)
        return shares.where(shares.isfinite(), 0.0)

    for rows in responses:
        if len(rows) <= chunk:
            _chunk(grads, head, hidden, tokens, rows, weight_fn, width, kernels)
            continue
        for part in chunks(rows, chunk):
            _chunk(accumulator, head, hidden, tokens, part, finite, width, kernels)
        # A scale of 0 is 0 whatever the shares are, as where a mask leaves out the response.
        total = scale(grads.log_pi)[rows[:1]]
        known = share(grads.log_pi)[rows].isfinite().all() | (total == 0)
        grads.add_scaled(accumulator, rows, total.where(known, torch.nan))
    return grads


def _fill(
    grads: Gradients, head: Head, hidden: Tensor, tokens: Tensor, rows: Tensor, kernels: Kernels
) -> None:
    """Fills in log-probabilities only."""
    kernels.fill(head, head.raw_logits(hidden[rows]), rows, tokens[rows], grads.log_pi)


def _chunk(
    grads: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    weight_fn: WeightFn,
    width: int,
    kernels: Kernels,
) -> None:
    """Fills in log-probabilities and gradients of some rows. Three matmuls."""
    states = hidden[rows]
    z = head.raw_logits(states)
    grad_logits = kernels.gradient(
        head, z, rows, tokens[rows], grads.log_pi, weight_fn, states.dtype
    )
    _add(grads, head, rows, states, grad_logits, width)


def two_passes(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    weight_fn: WeightFn,
    *,
    chunk: int,
    width: int,
    frozen: bool = False,
    kernels: Kernels = TORCH,
) -> Gradients:
    """All log-probabilities first, then the gradient by slices of the vocabulary: 1 + 3 matmuls.

    The second pass leaves out the rows whose weight is 0, for whatever reason; and it writes each
    part of the head's gradient once.
    """
    grads = Gradients.empty(head, hidden, frozen=frozen, written_once=True)
    lse = first_pass(grads, head, hidden, tokens, rows, chunk, kernels)
    weights = weight_fn(grads.log_pi).to(lse.dtype)
    live = rows[weights[rows] != 0]
    second_pass(grads, head, hidden, tokens, live, lse, weights, width, kernels)
    return grads


def first_pass(
    grads: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    chunk: int,
    kernels: Kernels = TORCH,
) -> Tensor:
    """Fills in the log-probabilities; the log-sum-exps `[M]`. One matmul."""
    lse = torch.zeros_like(grads.log_pi)
    for part in chunks(rows, chunk):
        z = head.raw_logits(hidden[part])
        scores = kernels.score(head, z, part, tokens[part])
        grads.log_pi[part], lse[part] = scores.log_pi, scores.lse
        del z
    return lse


def second_pass(
    grads: Gradients,
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    rows: Tensor,
    lse: Tensor,
    weights: Tensor,
    width: int,
    kernels: Kernels = TORCH,
) -> None:
    """Fills in the gradients, `width` vocabulary entries at a time. Three matmuls."""
    states, target, w, total = hidden[rows], tokens[rows], weights[rows], lse[rows]
    grad_hidden = torch.zeros(states.shape, dtype=head.acc_dtype, device=states.device)
    for vocab in slices(len(head.weight), width):
        z = head.raw_logits(states, vocab)
        grad_logits = kernels.slice_gradient(head, z, rows, vocab, target, total, w, states.dtype)
        low = grad_logits.to(hidden.dtype)
        accumulate(grad_hidden, low, head.weight[vocab])
        if grads.weight is not None:
            grads.weight[vocab] = matmul(low.T, states, head.acc_dtype)
        if grads.bias is not None:
            grads.bias[vocab] = grad_logits.sum(0, dtype=head.acc_dtype)
        del z, grad_logits, low  # before the next slice takes as much
    grads.hidden[rows] = grad_hidden.to(hidden.dtype)


VocabWeightFn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor]]


def vocab_pass(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    pieces: Iterable[Tensor],
    weight_fn: VocabWeightFn,
    *,
    width: int = SLICE,
    frozen: bool = False,
) -> Gradients:
    """One pass for an objective with weights for the whole vocabulary: entropy, exact divergences.

    Args:
        weight_fn: from rows, their log-probabilities `[C]` and distributions `[C, V]` to the
            weights by both, the first of which may be None.
    """
    grads = Gradients.empty(head, hidden, frozen=frozen)
    for rows in pieces:
        states, target = hidden[rows], tokens[rows, None]
        z, softcap_grad = head.logits(states, rows)
        log_p = z.sub_(z.logsumexp(-1, keepdim=True))
        if head.kept is not None:
            log_p.clamp_(min=IMPOSSIBLE)
        grads.log_pi[rows] = log_p.gather(-1, target).squeeze(-1)
        w, w_vocab = weight_fn(rows, grads.log_pi[rows], log_p)
        total = w_vocab.sum(-1, dtype=head.acc_dtype)
        if w is not None:
            total += w
        # d log p_v / d z_u = [u = v] - p_u
        grad_logits = log_p.exp().mul_(-total[:, None]).add_(w_vocab)
        if w is not None:
            grad_logits.scatter_add_(1, target, w[:, None].to(grad_logits.dtype))
        _add(grads, head, rows, states, head.grad_raw_logits(grad_logits, softcap_grad), width)
        del z, log_p, w_vocab, grad_logits, softcap_grad  # before the next chunk takes as much
    return grads


def _add(
    grads: Gradients, head: Head, rows: Tensor, states: Tensor, grad_logits: Tensor, width: int
) -> None:
    """Adds what a chunk contributes, from its gradient by the logits.

    Where matmuls have a low precision, a slice of the vocabulary at a time: a copy of the gradient
    in it is half as large as the logits, a summand of the head's as large as the head.
    """
    if states.dtype == head.acc_dtype:
        width = grad_logits.shape[1]
    is_low = grad_logits.dtype == states.dtype  # then one matmul does for the hidden states
    if is_low:
        grad_hidden = matmul(grad_logits, head.weight, head.acc_dtype)
    else:
        grad_hidden = torch.zeros(states.shape, dtype=head.acc_dtype, device=states.device)
    for vocab in slices(len(head.weight), width):
        low = grad_logits[:, vocab].to(states.dtype)
        if not is_low:
            accumulate(grad_hidden, low, head.weight[vocab])
        if grads.weight is not None:
            accumulate(grads.weight[vocab], low.T, states)
    grads.hidden[rows] = grad_hidden.to(states.dtype)
    if grads.bias is not None:
        grads.bias += grad_logits.sum(0, dtype=head.acc_dtype)
