"""The last layer of a language model, a chunk of tokens at a time.

Logits are wide by construction: float32 out of a bfloat16 product where the device can, float32
inputs where it cannot, float64 for float64. Rounding logits to bfloat16 first, as a model's own
head does, moves log-probabilities by up to 0.03, which flips the clip decision of four tokens in a
thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """`log softmax(cap(hidden @ weight.T + bias) / temperature)` over the words that were kept.

    Attributes:
        weight: `[V, H]`; may be that of the embedding.
        bias: `[V]`.
        temperature: of the sampler.
        softcap: `c tanh(z / c)`, as Gemma has it; None for none.
        kept: `[M, V]`, the words that the sampler kept at each token; None for all.
    """

    weight: Tensor
    bias: Tensor | None = None
    temperature: float = 1.0
    softcap: float | None = None
    kept: Tensor | None = None

    @property
    def wide(self) -> torch.dtype:
        """The type of logits, log-probabilities and sums."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def logits(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[C, V]` of some rows, and the slope of the cap where there is one."""
        z = matmul(hidden, self.weight.T, self.wide)
        if self.bias is not None:
            z += self.bias
        return self._shaped(z, rows, None)

    def logits_of(self, hidden: Tensor, rows: Tensor, words: slice) -> tuple[Tensor, Tensor | None]:
        """The same for some words, `[M, S]`."""
        z = matmul(hidden, self.weight[words].T, self.wide)
        if self.bias is not None:
            z += self.bias[words]
        return self._shaped(z, rows, words)

    def _shaped(self, z: Tensor, rows: Tensor, words: slice | None) -> tuple[Tensor, Tensor | None]:
        slope = None
        if self.softcap is not None:
            capped = torch.tanh(z / self.softcap)
            slope = 1 - capped * capped
            z = capped.mul_(self.softcap)
        if self.temperature != 1:
            z /= self.temperature
        if self.kept is not None:
            kept = self.kept[rows] if words is None else self.kept[rows][:, words]
            z = z.masked_fill_(~kept, -torch.inf)
        return z, slope

    def by_logits(self, d: Tensor, slope: Tensor | None) -> Tensor:
        """From the gradient by what the softmax takes to that by `hidden @ weight.T + bias`."""
        if slope is not None:
            d *= slope
        if self.temperature != 1:
            d /= self.temperature
        return d


def matmul(a: Tensor, b: Tensor, wide: torch.dtype) -> Tensor:
    """`a @ b` with wide sums, and a wide result."""
    if a.dtype == b.dtype == wide:
        return a @ b
    if a.is_cuda and a.dtype == b.dtype:
        return torch.mm(a, b, out_dtype=wide)
    return a.to(wide) @ b.to(wide)


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in pieces of about the same size, none larger than `size`."""
    many = max(1, -(-len(rows) // max(size, 1)))
    yield from rows.tensor_split(many)


def log_probs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    kept: Tensor | None = None,
    entropy: bool = False,
    chunk: int = 2048,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of tokens without a gradient, for `old`, `ref` and metrics: one product.

    Args:
        hidden: `[..., H]`, what the head is applied to.
        weight: `[V, H]`.
        tokens: `[...]`, the words that were sampled.
        entropy: also of the distribution at each token.
        chunk: tokens whose logits are held at a time.

    Returns:
        `[...]`, float32 or float64, and the entropies or None.
    """
    head = Head(weight, bias, temperature, softcap, None if kept is None else kept.flatten(0, -2))
    flat, target = hidden.flatten(0, -2), tokens.flatten()
    out = torch.empty(len(flat), dtype=head.wide, device=flat.device)
    spread = torch.empty_like(out) if entropy else None
    with torch.no_grad():
        for rows in chunks(torch.arange(len(flat), device=flat.device), chunk):
            z, _ = head.logits(flat[rows], rows)
            lse = z.logsumexp(-1)
            out[rows] = z.gather(-1, target[rows, None]).squeeze(-1) - lse
            if spread is not None:
                log_p = z - lse[:, None]
                spread[rows] = -(log_p.exp() * log_p.clamp(min=-1e30)).sum(-1)
    return out.view(tokens.shape), None if spread is None else spread.view(tokens.shape)
