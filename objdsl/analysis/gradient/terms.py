"""The products of a gradient weight: the role of each, and its factors."""

from __future__ import annotations

from enum import Enum

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Factors
from objdsl.analysis.values.dependence import Dependence
from objdsl.frozen import dataclass


class Kind(Enum):
    """The role of a product of the weight."""

    SIGNAL = "signal"
    BASELINE = "baseline"
    SHAPING = "shaping"
    PENALTY = "penalty"


@dataclass(frozen=True)
class Factor:
    """A node with a power, its dependence, and the node of the file that it comes from."""

    base: n.Expr
    exponent: float
    depends: Dependence
    origin: n.Expr

    @property
    def is_value(self) -> bool:
        """Whether it is neither a divisor nor a mask; a ratio is a value either way up."""
        return is_value(self.base, self.exponent)


@dataclass(frozen=True)
class Term:
    """One product of the weight.

    Attributes:
        factors: without the own reward of a signal, unless that is the reward of a token and
            reaches the tokens up to it unequally: discounted, or at its own token alone.
        reward: the own reward, of a signal.
    """

    kind: Kind
    coefficient: float
    factors: tuple[Factor, ...]
    reward: n.Column | None = None


def is_value(base: n.Expr, exponent: float) -> bool:
    """Whether a power is neither a divisor nor a mask; a ratio is a value either way up."""
    ratio = isinstance(base, n.Unary) and base.op == "exp"
    return (exponent > 0 or ratio) and not base.boolean


def powers(factors: tuple[Factor, ...] | frozenset[Factor]) -> Factors:
    """The factors as a key of `Sum.terms`."""
    return frozenset((factor.base, factor.exponent) for factor in factors)


def common_powers(terms: list[Term]) -> dict[n.Expr, float]:
    """The factors that all terms have, with their powers."""
    exponents = [{factor.base: factor.exponent for factor in term.factors} for term in terms]
    common = {}
    for base in frozenset.intersection(*map(frozenset, exponents)) if exponents else ():
        of_base = [powers_of_term[base] for powers_of_term in exponents]
        if min(of_base) > 0 or max(of_base) < 0:
            common[base] = min(of_base, key=abs)
    return common
