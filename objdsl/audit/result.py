"""The figures of an audit, as data."""

from __future__ import annotations

from collections.abc import Sequence

from objdsl.frozen import dataclass


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
    """The gradient `g` of the objective beside the true one, `d = grad E[reward]`; of several
    rewards that of their sum, each with the constant that fits all policies best.

    Attributes:
        reward: `real` or `binary`.
        policies: how `pi`, `old` and `mu` differ.
        cosine: of `E[g]` and `d`.
        residual: what remains of `E[g]` after the best positive multiple of `d` is taken away, as
            a part of `E[g]`. 0 means unbiased up to the learning rate; 1 means that nothing of the
            true gradient is in it.
        norm: `|E g| / |d|`, which a learning rate can undo.
        bias: `|E g - d| / |d|`, as it stands.
        variance: `tr Cov(g) / |E g|^2`, of one optimizer step.
        interval: where the residual lies, in 95 of 100 audits; None where all draws are summed.
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
    """How much a token of a response of `length` tokens weighs.

    The expected weight over the expected true advantage, apart for responses that are better
    (`above`) and worse (`below`) than the policy's average; 1 is the weight in the true gradient,
    once the learning rate is set right. A critic's baseline, which changes from token to token,
    moves it without a bias. None where there are no such responses.
    """

    length: int
    above: float | None
    below: float | None


@dataclass(frozen=True)
class Match:
    """How near an expected penalty gradient is to the gradient of a divergence; `interval` as in a
    row."""

    divergence: str
    meaning: str
    cosine: Figure
    residual: Figure
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Penalty:
    """What the expected gradient of the terms with a frozen policy descends, at reward 0.

    Attributes:
        against: the policy.
        share: `|E g| / sqrt(E |g|^2)`: 0 where the gradient is nothing but noise.
        descends: the divergence whose gradient it is, `nothing`, or None.
    """

    against: str
    share: Figure
    descends: str | None
    matches: tuple[Match, ...]

    @property
    def nearest(self) -> Match:
        return min(self.matches, key=lambda match: match.residual.mean)


def number(x: float) -> str:
    """Three digits that matter; what rounding leaves of a 0 is a 0."""
    if abs(x) < 1e-9:
        return "0"
    if abs(x) < 1e-3:
        return f"{x:.0e}"
    return f"{x:.3f}" if abs(x) < 0.9995 else f"{x:.2f}" if abs(x) < 100 else f"{x:.0f}"
