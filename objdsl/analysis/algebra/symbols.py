"""Nodes that analyses put into formulas. No file contains them, and nothing computes them."""

from __future__ import annotations

from typing import NamedTuple

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.indices import SCALAR, TOKEN, VOCAB, Indices, union


class Ratio(NamedTuple):
    """The ratio of two policies."""

    of: str
    to: str

    def __str__(self) -> str:
        return f"{self.of} / {self.to}"


@dataclass(frozen=True, eq=False, slots=True)
class LogRatio(n.Symbol):
    """`X = log(of / to)` of the sampled token, as one value."""

    ratio: Ratio

    def __str__(self) -> str:
        return f"log({self.ratio})"

    def _indices(self) -> Indices:
        return TOKEN


@dataclass(frozen=True, eq=False, slots=True)
class LogDistRatio(n.Symbol):
    """`X` of every entry of the vocabulary."""

    ratio: Ratio

    def __str__(self) -> str:
        return f"log({self.ratio.of}[v] / {self.ratio.to}[v])"

    def _indices(self) -> Indices:
        return VOCAB


@dataclass(frozen=True, eq=False, slots=True)
class Kink(n.Symbol):
    """The change of a value with a kink, where it has no derivative."""

    number: int

    def __str__(self) -> str:
        return "(a change at a kink)"

    def _indices(self) -> Indices:
        return TOKEN


@dataclass(frozen=True, eq=False, slots=True)
class Opaque(n.Symbol):
    """Any value, of which only its number and its indices are known."""

    number: int
    over: Indices = SCALAR

    def __str__(self) -> str:
        return "(a value)"

    def _indices(self) -> Indices:
        return self.over


@dataclass(frozen=True, eq=False, slots=True)
class Elsewhere(n.Symbol):
    """`x` summed over the other prompts of the step."""

    x: n.Expr

    def __str__(self) -> str:
        return "(a sum over the other prompts)"

    def _indices(self) -> Indices:
        return SCALAR


@dataclass(frozen=True, eq=False, slots=True)
class Apart(n.Symbol):
    """`x` summed over the responses to the prompt, with the same keys, that do not share the token;
    where the column of the branches is one of responses, over those that share no token at all."""

    x: n.Expr
    keys: tuple[n.Expr, ...]
    column: n.Column

    def __str__(self) -> str:
        return "(a sum over the responses that do not share the token)"

    def _indices(self) -> Indices:
        return union(self.column.indices, *(key.indices for key in self.keys))


OfTokens = n.LogProb | LogRatio
"""The nodes that read the probability of a sampled token."""
OfPolicies = OfTokens | n.LogDist | LogDistRatio
"""The nodes that read a probability."""


def log_ratio(of: n.LogProb | n.LogDist, ratio: Ratio) -> LogRatio | LogDistRatio:
    """The logarithm of a ratio, of the sampled token or of every vocabulary entry, as in `of`."""
    return LogRatio(ratio) if isinstance(of, n.LogProb) else LogDistRatio(ratio)
