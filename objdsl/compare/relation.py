"""How two losses are related, on one step and on several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.losses.batch import Batch
from objdsl.losses.loss import Evaluation, Loss


@dataclass(frozen=True, eq=False)
class Pair:
    """Two losses on the same step."""

    batch: Batch
    a: Evaluation
    b: Evaluation

    @classmethod
    def of(cls, a: Loss, b: Loss, batch: Batch) -> Pair:
        return cls(batch, a(batch), b(batch))

    @property
    def values(self) -> tuple[float, float]:
        return float(self.a.value), float(self.b.value)

    @property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """All derivatives of each, with 0 for columns that only the other trains."""
        names = sorted({*self.a.gradients, *self.b.gradients})
        return flat(self.a, self.b, names), flat(self.b, self.a, names)

    def same_value(self, rtol: float) -> bool:
        a, b = self.values
        # Values may cancel to 0 where gradients do not: their sizes are those of the values' terms.
        size = sum(float(g.abs().sum()) for g in self.gradients) / 2
        return abs(a - b) <= rtol * max(abs(a), abs(b), min(size, 1.0))

    def same_gradient(self, rtol: float) -> bool:
        a, b = self.gradients
        return float((a - b).norm()) <= rtol * max(float(a.norm()), float(b.norm()))

    @property
    def factor(self) -> float | None:
        """c, where the second's gradient is c times the first's."""
        a, b = self.gradients
        square = float(a @ a)
        if square == 0 or not bool(b.any()):
            return None
        c = float(a @ b) / square
        return c if float((b - c * a).norm()) <= 1e-7 * float(b.norm()) else None


def flat(evaluation: Evaluation, other: Evaluation, names: Iterable[str]) -> Tensor:
    parts = [
        evaluation.gradients[name]
        if name in evaluation.gradients
        else torch.zeros_like(other.gradients[name])
        for name in names
    ]
    return torch.cat([part.flatten().double() for part in parts])


@dataclass(frozen=True)
class Relation:
    """How two losses are related on some steps.

    Attributes:
        value, gradient: whether they are the same on all.
        factors: c of each step where the second's gradient is c times the first's, else None.
    """

    value: bool
    gradient: bool
    factors: tuple[float | None, ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair], rtol: float) -> Relation:
        return cls(
            all(pair.same_value(rtol) for pair in pairs),
            all(pair.same_gradient(rtol) for pair in pairs),
            tuple(pair.factor for pair in pairs),
        )

    @property
    def factor(self) -> float | None:
        """The factor, where it is the same on all steps."""
        factors = [c for c in self.factors if c is not None]
        if len(factors) < len(self.factors) or not factors:
            return None
        same = max(factors) - min(factors) <= 1e-6 * abs(factors[0])
        return factors[0] if same else None

    @property
    def parallel(self) -> bool:
        """Whether the gradients of every step have the same direction, or the opposite."""
        return all(c is not None for c in self.factors)
