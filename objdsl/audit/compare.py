"""An expected gradient beside the one that is meant, without the bias that sampling brings.

Of a mean over random steps the length is too large by its noise, and so is what it has across any
direction: `E |m|^2 = |E m|^2 + tr Cov(m)`. All squares here have that taken off, so that they are
right on average; what is left of their noise is said as an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from objdsl.audit.measure import Expected
from objdsl.frozen import dataclass

# Half the width of an interval that holds in 95 of 100 audits, in standard errors.
_TWO_SIDED = 1.96


@dataclass(frozen=True, eq=False)
class Square:
    """The squared length of a vector that is known up to noise.

    Attributes:
        value: right on average; below 0 at times, where the noise is larger than the vector.
        error: its standard error; 0 where nothing is sampled.
    """

    value: float
    error: float = 0.0

    @classmethod
    def of(cls, x: Tensor, noise: Tensor | None) -> Square:
        """Of a mean `x` with the covariance `noise`."""
        plain = float(x @ x)
        if noise is None:
            return cls(plain)
        own = float((noise * noise).sum())
        # Of `x` itself, as of its square, the noise is taken off.
        spread = 4 * max(float(x @ noise @ x) - own, 0.0) + 2 * own
        return cls(plain - float(noise.trace()), sqrt(spread))

    @property
    def root(self) -> float:
        return sqrt(max(self.value, 0.0))

    @property
    def is_nothing(self) -> bool:
        """Whether no length can be told from the noise."""
        return self.value <= _TWO_SIDED * self.error


@dataclass(frozen=True, eq=False)
class Comparison:
    """The expected gradient `g` of one random policy beside the meant one, `d`.

    Attributes:
        across: the part of `|g|^2` that no positive multiple of `d` has; 1 if it points away.
        error: the standard error of `across`.
        cosine: of `g` and `d`.
        norm: `|g| / |d|`.
        bias: `|g - d| / |d|`.
        variance: `tr Cov / |g|^2` of one step.
    """

    across: float
    error: float
    cosine: float
    norm: float
    bias: float
    variance: float

    @classmethod
    def of(cls, got: Expected, d: Tensor) -> Comparison:
        g = signal(got)
        length, size = Square.of(g, got.noise), float(d.norm())
        off = Square.of(g - d, got.noise)
        norm = _over(length.root, size)
        bias = _over(off.root, size)
        variance = _over(got.variance, length.value)
        if length.value <= 0 and size == 0:  # there is nothing to learn, and nothing is learnt
            return cls(0.0, 0.0, 1.0, norm, bias, variance)
        if length.value <= 0 or size == 0:
            return cls(1.0, 0.0 if got.noise is None else 1.0, 0.0, norm, bias, variance)
        unit = d / size
        along = float(g @ unit)
        cosine = max(-1.0, min(1.0, along / length.root))
        across = Square.of(*_without(g, got.noise, unit))
        if along <= 0:
            return cls(1.0, _over(across.error, length.value), cosine, norm, bias, variance)
        part = _over(across.value, length.value), _over(across.error, length.value)
        return cls(*part, cosine, norm, bias, variance)


def signal(got: Expected) -> Tensor:
    """`E[g]`, or 0 where it is nothing but the rounding of terms that cancel."""
    is_rounding = float(got.mean.norm()) < 1e-12 * sqrt(got.variance)
    return torch.zeros_like(got.mean) if is_rounding else got.mean


def residual(found: Sequence[Comparison]) -> tuple[list[float], tuple[float, float] | None]:
    """The residual of each comparison; of sampled ones that of all of them, and its interval."""
    if not any(x.error for x in found):
        return [sqrt(max(x.across, 0.0)) for x in found], None
    mean = sum(x.across for x in found) / len(found)
    error = sqrt(sum(x.error**2 for x in found)) / len(found)
    low, high = (sqrt(min(max(mean + s * _TWO_SIDED * error, 0.0), 1.0)) for s in (-1, 1))
    return [sqrt(min(max(mean, 0.0), 1.0))], (low, high)


def constants(found: Sequence[tuple[Expected, Tensor]]) -> Tensor:
    """The constants `c >= 0` with which `D c` comes nearest to the expected gradients of all
    random policies, up to a scale of each: `[K]`, of the directions `D`, `[n, K]`, that are theirs.

    If there are such constants they are found: by least squares where the scale is one, and by the
    mean of what each policy says of them where it is not.
    """
    pairs = [(signal(got), d) for got, d in found]
    pairs = [(g / g.norm(), d / g.norm()) for g, d in pairs if float(g.norm()) > 0]
    if not pairs:
        return found[0][1].new_ones(found[0][1].shape[1])
    together = _least(torch.cat([g for g, _ in pairs]), torch.cat([d for _, d in pairs]))
    each = [_least(g, d) for g, d in pairs]
    size = sum(float(c.norm()) for c in each) / len(each)
    mean = sum((c / max(float(c.norm()), 1e-300) for c in each), torch.zeros_like(each[0]))
    apart = mean * size / max(float(mean.norm()), 1e-300)
    return min((together, apart), key=lambda c: _missed(pairs, c))


def _least(g: Tensor, d: Tensor) -> Tensor:
    """`c >= 0` with the least `|g - d c|`, by leaving out what comes out below 0."""
    kept = torch.arange(d.shape[1])
    c = d.new_zeros(d.shape[1])
    while len(kept):
        part = torch.linalg.lstsq(d[:, kept], g[:, None], driver="gelsd").solution[:, 0]
        if bool((part >= 0).all()):
            c[kept] = part
            break
        kept = kept[part >= 0]
    return c


def _missed(pairs: Sequence[tuple[Tensor, Tensor]], c: Tensor) -> float:
    total = 0.0
    for g, directions in pairs:
        d = directions @ c
        scale = max(float(g @ d), 0.0) / max(float(d @ d), 1e-300)
        total += float((g - scale * d).norm()) ** 2
    return total


def _without(x: Tensor, noise: Tensor | None, unit: Tensor) -> tuple[Tensor, Tensor | None]:
    """What is across a direction of unit length: of a vector, and of its covariance."""
    across = x - (x @ unit) * unit
    if noise is None:
        return across, None
    left = noise - torch.outer(unit, unit @ noise)
    return across, left - torch.outer(left @ unit, unit)


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0
