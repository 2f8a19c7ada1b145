"""An expected gradient compared with its target, without the bias that sampling adds.

The mean over random steps is too long by its noise, and so is its component orthogonal to any
direction: `E |m|^2 = |E m|^2 + tr Cov(m)`. All squares here are corrected for that, so that they
are unbiased; the noise that they still have is reported as an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from objdsl.audit.gradient import Expected
from objdsl.frozen import dataclass

# Half the width of an interval that holds in 95 of 100 audits, in standard errors.
_TWO_SIDED = 1.96


@dataclass(frozen=True, eq=False)
class Square:
    """The squared length of a vector that is known up to noise.

    Attributes:
        value: an unbiased estimate; it may be below 0 where the noise is larger than the vector.
        error: its standard error; 0 where nothing is sampled.
    """

    value: float
    error: float = 0.0

    @classmethod
    def of(cls, x: Tensor, noise: Tensor | None) -> Square:
        """The square of a vector with the mean `x`, estimated with the covariance `noise`."""
        plain = float(x @ x)
        if noise is None:
            return cls(plain)
        of_noise = float((noise * noise).sum())
        # The variance of the square is corrected for noise in `x` like the square itself.
        variance = 4 * max(float(x @ noise @ x) - of_noise, 0.0) + 2 * of_noise
        return cls(plain - float(noise.trace()), sqrt(variance))

    @property
    def root(self) -> float:
        return sqrt(max(self.value, 0.0))

    @property
    def is_noise(self) -> bool:
        """Whether the length cannot be distinguished from 0."""
        return self.value <= _TWO_SIDED * self.error


@dataclass(frozen=True, eq=False)
class Comparison:
    """The expected gradient `g` of a random policy, compared with its target `d`.

    Attributes:
        orthogonal: the share of `|g|^2` that is orthogonal to `d`; 1 if `g` points away from `d`.
        error: the standard error of `orthogonal`.
        cosine: of `g` and `d`.
        norm: `|g| / |d|`.
        bias: `|g - d| / |d|`.
        variance: `tr Cov / |g|^2` of one step.
    """

    orthogonal: float
    error: float
    cosine: float
    norm: float
    bias: float
    variance: float

    @classmethod
    def of(cls, gradient: Expected, d: Tensor) -> Comparison:
        g, noise = signal(gradient), gradient.noise
        length, size = Square.of(g, noise), float(d.norm())
        norm = _over(length.root, size)
        bias = _over(Square.of(g - d, noise).root, size)
        variance = _over(gradient.variance, length.value)
        if length.value <= 0 and size == 0:  # there is nothing to learn, and nothing is learnt
            return cls(0.0, 0.0, 1.0, norm, bias, variance)
        if length.value <= 0 or size == 0:
            return cls(1.0, 0.0 if noise is None else 1.0, 0.0, norm, bias, variance)
        unit = d / size
        along = float(g @ unit)
        cosine = max(-1.0, min(1.0, along / length.root))
        rest = Square.of(*_orthogonal(g, noise, unit))
        error = _over(rest.error, length.value)
        orthogonal = _over(rest.value, length.value) if along > 0 else 1.0
        return cls(orthogonal, error, cosine, norm, bias, variance)


def signal(gradient: Expected) -> Tensor:
    """`E[g]`, or 0 where it is only the rounding error of terms that cancel."""
    is_rounding = float(gradient.mean.norm()) < 1e-12 * sqrt(gradient.variance)
    return torch.zeros_like(gradient.mean) if is_rounding else gradient.mean


def residual(comparisons: Sequence[Comparison]) -> tuple[list[float], tuple[float, float] | None]:
    """The residual of each comparison; if they are sampled, the joint one and its interval."""
    if not any(x.error for x in comparisons):
        return [sqrt(max(x.orthogonal, 0.0)) for x in comparisons], None
    mean = sum(x.orthogonal for x in comparisons) / len(comparisons)
    error = sqrt(sum(x.error**2 for x in comparisons)) / len(comparisons)
    low, high = (sqrt(min(max(mean + s * _TWO_SIDED * error, 0.0), 1.0)) for s in (-1, 1))
    return [sqrt(min(max(mean, 0.0), 1.0))], (low, high)


def constants(gradients: Sequence[tuple[Expected, Tensor]]) -> Tensor:
    """The constants `c >= 0`, `[C]`, with which `D c` comes nearest to the expected gradients of
    all random policies, up to one scale per policy.

    If a `c` exists that fits exactly, this is it: least squares finds it where all scales are
    equal, and the mean over the policies' own fits where they differ.

    Args:
        gradients: the gradient of each policy, and its directions `D`, `[n, C]`.
    """
    pairs = [(signal(gradient), d) for gradient, d in gradients]
    pairs = [(g / g.norm(), d / g.norm()) for g, d in pairs if float(g.norm()) > 0]
    if not pairs:
        directions = gradients[0][1]
        return directions.new_ones(directions.shape[1])
    joint = _least_squares(torch.cat([g for g, _ in pairs]), torch.cat([d for _, d in pairs]))
    fits = [_least_squares(g, d) for g, d in pairs]
    size = sum(float(c.norm()) for c in fits) / len(fits)
    total = sum((c / max(float(c.norm()), 1e-300) for c in fits), torch.zeros_like(fits[0]))
    mean = total * size / max(float(total.norm()), 1e-300)
    return min((joint, mean), key=lambda c: _squared_error(pairs, c))


def _least_squares(g: Tensor, d: Tensor) -> Tensor:
    """`c >= 0` with a small `|g - d c|`: directions whose factor is below 0 are dropped."""
    kept = torch.arange(d.shape[1])
    c = d.new_zeros(d.shape[1])
    while len(kept):
        part = torch.linalg.lstsq(d[:, kept], g[:, None], driver="gelsd").solution[:, 0]
        if bool((part >= 0).all()):
            c[kept] = part
            break
        kept = kept[part >= 0]
    return c


def _squared_error(pairs: Sequence[tuple[Tensor, Tensor]], c: Tensor) -> float:
    total = 0.0
    for g, directions in pairs:
        d = directions @ c
        scale = max(float(g @ d), 0.0) / max(float(d @ d), 1e-300)
        total += float((g - scale * d).norm()) ** 2
    return total


def _orthogonal(x: Tensor, noise: Tensor | None, unit: Tensor) -> tuple[Tensor, Tensor | None]:
    """A vector and its covariance, projected orthogonally to a unit vector."""
    projected = x - (x @ unit) * unit
    if noise is None:
        return projected, None
    left = noise - torch.outer(unit, unit @ noise)
    return projected, left - torch.outer(left @ unit, unit)


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0
