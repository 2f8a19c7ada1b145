"""The last layer of a language model, a chunk of tokens at a time.

Logits are wide by construction: float32 out of a bfloat16 product where the device can, float32
inputs where it cannot, float64 for float64. Rounding logits to bfloat16 first, as a model's own
head does, moves log-probabilities by up to 0.03, which flips the clip decision of four tokens in a
thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from objdsl.frozen import dataclass

ALL = slice(None)
SLICE = 8192
"""Words at a time, where a matrix of all of them would be too large."""
Precision = Literal["inputs", "bf16x2", "bf16x3"]
# Devices that multiply narrow numbers into wide ones. `meta`, of shapes alone, stands for a GPU.
_WIDE_SUMS = frozenset({"cuda", "meta"})


@dataclass(frozen=True, eq=False)
class Head:
    """`log softmax(cap(hidden @ weight.T + bias) / temperature)` over the words that were kept.

    Attributes:
        weight: `[V, H]`; may be that of the embedding.
        bias: `[V]`.
        temperature: of the sampler.
        softcap: `c tanh(z / c)`, as Gemma has it; None for none.
        kept: `[M, V]`, the words that the sampler kept at each token; None for all.
        rest: `[V, H]` each, what `weight` leaves of a wider head, as numbers of the same type: the
            logits are those of their sum.
    """

    weight: Tensor
    bias: Tensor | None = None
    temperature: float = 1.0
    softcap: float | None = None
    kept: Tensor | None = None
    rest: tuple[Tensor, ...] = ()

    @classmethod
    def under(
        cls,
        hidden: Tensor,
        weight: Tensor,
        *,
        bias: Tensor | None,
        temperature: float,
        softcap: float | None,
        kept: Tensor | None,
        precision: Precision,
    ) -> Head:
        """The head over hidden states `[..., H]`; `kept` is `[..., V]`.

        Raises:
            ValueError: the precision is none of these types.
        """
        main, *rest = split(weight.detach(), precision, hidden)
        bias = None if bias is None else bias.detach()
        kept = None if kept is None else kept.flatten(0, -2)
        return cls(main, bias, temperature, softcap, kept, tuple(rest))

    @property
    def wide(self) -> torch.dtype:
        """The type of logits, log-probabilities and sums."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def products(self, hidden: Tensor, words: slice = ALL) -> Tensor:
        """`hidden @ weight.T`, wide: `[C, V]`, or `[C, S]` of some words."""
        z = matmul(hidden, self.weight[words].T, self.wide)
        for part in self.rest:
            part = part[words]
            for some in slices(len(part), SLICE):  # no summand as large as the logits
                accumulate(z[:, some], hidden, part[some].T)
        return z

    def shaped(self, z: Tensor, rows: Tensor, words: slice = ALL) -> tuple[Tensor, Tensor | None]:
        """Logits of products, in place, and the slope of the cap where there is one."""
        if self.bias is not None:
            z += self.bias[words]
        slope = None
        if self.softcap is not None:
            z.div_(self.softcap).tanh_()
            slope = z.square().neg_().add_(1)
            z *= self.softcap
        if self.temperature != 1:
            z /= self.temperature
        if self.kept is not None:
            z.masked_fill_(self.kept[:, words][rows].logical_not_(), -torch.inf)
        return z, slope

    def logits(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[C, V]` of some rows, and the slope of the cap where there is one."""
        return self.shaped(self.products(hidden), rows)

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
    if a.device.type in _WIDE_SUMS and a.dtype == b.dtype:
        return torch.mm(a, b, out_dtype=wide)
    return a.to(wide) @ b.to(wide)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b` with wide sums; `total` is wide."""
    if a.dtype == b.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and _adds_wide():
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += matmul(a, b, total.dtype)


@cache
def _adds_wide() -> bool:
    """Whether this torch adds a product of narrow numbers to wide ones in place.

    Older ones want the summand as narrow as the factors. It is tried out once.
    """
    if not torch.cuda.is_available():
        return False
    one = torch.ones(16, 16, dtype=torch.bfloat16, device="cuda")
    total = torch.full((16, 16), 1 + 2**-12, device="cuda")
    try:
        torch.addmm(total, one, one, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17 + 2**-12).all())


def slices(words: int, width: int) -> Iterator[slice]:
    """The words, `width` at a time."""
    for start in range(0, words, width):
        yield slice(start, start + width)


def split(weight: Tensor, precision: Precision, hidden: Tensor) -> tuple[Tensor, ...]:
    """A head as a sum of bfloat16 numbers: two have 16 bits of each float32, three have all 24.

    Products with bfloat16 states then stay narrow, and logits lose nothing that the states have.

    Raises:
        ValueError: the states are not bfloat16, or the head is no wider.
    """
    if precision == "inputs":
        return (weight,)
    if hidden.dtype != torch.bfloat16 or weight.dtype != torch.float32:
        raise ValueError(
            f"{precision} is for a float32 head under bfloat16 states, "
            f"not {weight.dtype} under {hidden.dtype}"
        )
    parts = [torch.empty_like(weight, dtype=hidden.dtype) for _ in range(int(precision[-1]))]
    for words in slices(len(weight), SLICE):  # no second float32 copy of the head
        left = weight[words]
        for part in parts:
            part[words] = left
            left = left - part[words]
    return tuple(parts)


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in pieces of about the same size, none larger than `size`."""
    many = max(1, -(-len(rows) // max(size, 1)))
    yield from rows.tensor_split(many)
