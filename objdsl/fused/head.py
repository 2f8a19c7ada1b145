"""The last layer of a language model, a chunk of tokens at a time.

Logits have a high precision by construction: a bfloat16 matmul accumulates and returns float32
where the device can, its inputs are cast to float32 where it cannot; float64 stays float64.
Rounding logits to bfloat16 first, as a model's own head does, moves log-probabilities by up to
0.03, which flips the clip decision of four tokens in a thousand.
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
"""Vocabulary entries at a time, if a matrix over all of them would be too large."""
Precision = Literal["inputs", "bf16x2", "bf16x3"]
# Devices whose matmul can return a higher precision than its inputs have. `meta` stands for a GPU.
_HIGH_PRECISION_SUMS = frozenset({"cuda", "meta"})


@dataclass(frozen=True, eq=False)
class Head:
    """`log softmax(cap(hidden @ weight.T + bias) / temperature)` over what the sampler kept.

    Attributes:
        weight: `[V, H]`; may be that of the embedding.
        bias: `[V]`.
        temperature: of the sampler.
        softcap: `c tanh(z / c)`, as Gemma has it; None for none.
        kept: `[M, V]`, which entries the sampler kept at each token; None for all.
        rest: `[V, H]` each, the rounding errors of `weight` against a head of higher precision, in
            its dtype: the logits are those of their sum.
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
            ValueError: the precision does not fit the dtypes of head and states.
        """
        main, *rest = split(weight.detach(), precision, hidden)
        bias = None if bias is None else bias.detach()
        kept = None if kept is None else kept.flatten(0, -2)
        return cls(main, bias, temperature, softcap, kept, tuple(rest))

    @property
    def acc_dtype(self) -> torch.dtype:
        """The dtype of logits, log-probabilities and sums."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def raw_logits(self, hidden: Tensor, vocab: slice = ALL) -> Tensor:
        """`hidden @ weight.T` in `acc_dtype`: `[C, V]`, `[C, S]` for a slice of the vocabulary."""
        z = matmul(hidden, self.weight[vocab].T, self.acc_dtype)
        for part in self.rest:
            part = part[vocab]
            for some in slices(len(part), SLICE):  # no summand as large as the logits
                accumulate(z[:, some], hidden, part[some].T)
        return z

    def shape_logits(
        self, z: Tensor, rows: Tensor, vocab: slice = ALL
    ) -> tuple[Tensor, Tensor | None]:
        """Logits from raw ones, in place, and the derivative of the softcap if there is one."""
        if self.bias is not None:
            z += self.bias[vocab]
        softcap_grad = None
        if self.softcap is not None:
            z.div_(self.softcap).tanh_()
            softcap_grad = z.square().neg_().add_(1)
            z *= self.softcap
        if self.temperature != 1:
            z /= self.temperature
        if self.kept is not None:
            z.masked_fill_(self.kept[:, vocab][rows].logical_not_(), -torch.inf)
        return z, softcap_grad

    def logits(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[C, V]` for some rows, and the derivative of the softcap if there is one."""
        return self.shape_logits(self.raw_logits(hidden), rows)

    def grad_raw_logits(self, grad: Tensor, softcap_grad: Tensor | None) -> Tensor:
        """The gradient by `hidden @ weight.T + bias`, in place, from that by the logits."""
        if softcap_grad is not None:
            grad *= softcap_grad
        if self.temperature != 1:
            grad /= self.temperature
        return grad


def matmul(a: Tensor, b: Tensor, acc_dtype: torch.dtype) -> Tensor:
    """`a @ b`, accumulated in and returned as `acc_dtype`."""
    if a.dtype == b.dtype == acc_dtype:
        return a @ b
    if a.device.type in _HIGH_PRECISION_SUMS and a.dtype == b.dtype:
        return torch.mm(a, b, out_dtype=acc_dtype)
    return a.to(acc_dtype) @ b.to(acc_dtype)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, accumulated in the dtype of `total`."""
    if a.dtype == b.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and _accumulates_in_place():
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += matmul(a, b, total.dtype)


@cache
def _accumulates_in_place() -> bool:
    """Whether this torch adds a bfloat16 matmul to a float32 tensor in place.

    Older versions want the summand in the dtype of the factors. It is tried out once.
    """
    if not torch.cuda.is_available():
        return False
    ones = torch.ones(16, 16, dtype=torch.bfloat16, device="cuda")
    total = torch.full((16, 16), 1 + 2**-12, device="cuda")
    try:
        torch.addmm(total, ones, ones, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17 + 2**-12).all())


def slices(size: int, width: int) -> Iterator[slice]:
    """Slices of a vocabulary of a size, `width` entries each."""
    for start in range(0, size, width):
        yield slice(start, start + width)


def split(weight: Tensor, precision: Precision, hidden: Tensor) -> tuple[Tensor, ...]:
    """A float32 head as a sum of bfloat16 matrices: two have 16 bits of its mantissa, three all 24.

    A matmul with bfloat16 states then runs in bfloat16 and accumulates in float32.

    Raises:
        ValueError: the states are not bfloat16, or the head is not float32.
    """
    if precision == "inputs":
        return (weight,)
    if hidden.dtype != torch.bfloat16 or weight.dtype != torch.float32:
        raise ValueError(
            f"{precision} is for a float32 head under bfloat16 states, "
            f"not {weight.dtype} under {hidden.dtype}"
        )
    parts = [torch.empty_like(weight, dtype=hidden.dtype) for _ in range(int(precision[-1]))]
    for vocab in slices(len(weight), SLICE):  # no second float32 copy of the head
        left = weight[vocab]
        for part in parts:
            part[vocab] = left
            left = left - part[vocab]
    return tuple(parts)


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in pieces of about the same size, none larger than `size`."""
    n_chunks = max(1, -(-len(rows) // max(size, 1)))
    yield from rows.tensor_split(n_chunks)
