"""The figures of an audit, as data."""

from __future__ import annotations

from collections.abc import Sequence

from objdsl.frozen import dataclass

# A figure below this is a rounding error of float64.
EXACT = 1e-8


@dataclass(frozen=True)
class Figure:
    """A number over several random policies: its mean, and its worst value."""

    mean: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float], *, worst: str = "max") -> Figure:
        return cls(sum(values) / len(values), max(values) if worst == "max" else min(values))

    def __str__(self) -> str:
        mean, worst = number(self.mean), number(self.worst)
        return mean if mean == worst else f"{mean} ({worst})"


@dataclass(frozen=True)
class Row:
    """The gradient `g` of the objective compared with the true one, `d = grad E[reward]`.

    Several rewards are summed, each with the constant that fits all policies best.

    Attributes:
        reward: `real` or `binary`.
        policies: how `pi`, `old` and `mu` differ.
        cosine: the cosine of `E[g]` and `d`.
        residual: what remains of `E[g]` after subtracting the best positive multiple of `d`,
            relative to `E[g]`. 0 means unbiased up to the learning rate; 1 means that it contains
            nothing of the true gradient.
        norm: `|E g| / |d|`, which a learning rate can undo.
        bias: `|E g - d| / |d|`, at the learning rate as it is.
        variance: `tr Cov(g) / |E g|^2` of one optimizer step.
        interval: a 95% confidence interval of the residual; None where all draws are summed.
    """

    reward: str
    policies: str
    cosine: Figure
    residual: Figure
    norm: Figure
    bias: Figure
    variance: Figure
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Length:
    """The weight of a token in a response of `length` tokens.

    It is the expected weight divided by the expected true advantage, for responses that are better
    (`above`) and worse (`below`) than the policy's average; 1 is the weight in the true gradient,
    at the right learning rate. A critic's baseline, which changes from token to token, moves it
    without a bias. None where there are no such responses.
    """

    length: int
    above: float | None
    below: float | None


@dataclass(frozen=True)
class Match:
    """How near the expected gradient of a penalty is to that of a divergence; see `Row`."""

    divergence: str
    meaning: str
    cosine: Figure
    residual: Figure
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Penalty:
    """What the terms against a policy descend in expectation, with rewards of 0.

    Attributes:
        against: the policy.
        share: `|E g| / sqrt(E |g|^2)`: 0 where the gradient is only noise.
        descends: the divergence that they descend exactly, `nothing`, or None.
    """

    against: str
    share: Figure
    descends: str | None
    matches: tuple[Match, ...]

    @property
    def nearest(self) -> Match:
        return min(self.matches, key=lambda match: match.residual.mean)


def number(x: float) -> str:
    """Three significant digits; a rounding error is 0."""
    if abs(x) < 1e-9:
        return "0"
    if abs(x) < 1e-3:
        return f"{x:.0e}"
    return f"{x:.3f}" if abs(x) < 0.9995 else f"{x:.2f}" if abs(x) < 100 else f"{x:.0f}"
