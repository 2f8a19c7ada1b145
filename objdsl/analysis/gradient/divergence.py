"""What the gradient of a penalty against a frozen policy descends, on policy.

Let `X = log(ref / pi)` of a token. With `old = mu = pi` a penalty brings the weight `scale * g(X)`,
and the expected gradient `E[g(X) grad log pi]`. Descending the f-divergence `E_pi[f(ref / pi)]` is
the weight `u f'(u) - f(u)` with `u = e^X`, up to a constant:

    X               reverse KL, KL(pi || ref)         f = -log u
    e^X             forward KL, KL(ref || pi)         f = u log u
    e^(2X)          chi-square of ref from pi         f = (u - 1)^2
    -e^-X           chi-square of pi from ref         f = 1/u - 1
    sign X          total variation                   f = |u - 1|
    a constant      nothing: E[grad log pi] = 0

Any other g is that of an f-divergence if and only if it rises with X, for `f'' = g'(X) / u^2`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from itertools import product

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors
from objdsl.analysis.algebra.symbols import LogDistRatio, LogRatio
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.terms import Factor, Kind, Term
from objdsl.analysis.values.dependence import Level
from objdsl.frozen import dataclass
from objdsl.ir.columns import Data, column_of

# Data that sampled responses always have; other columns are declared.
# The most masks for which every combination is tried.
_MOST_MASKS = 4

Piece = tuple[int, float]
"""`(j, k)` for `X^j e^(kX)`; see SIGN."""
SIGN: Piece = (-1, 0.0)
"""The piece `sign X`."""


class Descends(Enum):
    """The divergence that a penalty reduces."""

    REVERSE_KL = "the reverse KL, KL(pi || ref)"
    FORWARD_KL = "the forward KL, KL(ref || pi)"
    CHI_SQUARE_REF = "the chi-square divergence of ref from pi"
    CHI_SQUARE_PI = "the chi-square divergence of pi from ref"
    TOTAL_VARIATION = "the total variation between pi and ref"
    SOME_DIVERGENCE = "an f-divergence that has no name"
    NO_DIVERGENCE = "no divergence"

    def of(self, policy: str) -> str:
        return self.value.replace("ref", policy)


class Credit(Enum):
    """The part of the penalty that a token is held accountable for."""

    TOKEN = "its own"
    TO_GO = "its own and all later ones"
    RESPONSE = "all of the response"


@dataclass(frozen=True)
class Penalty:
    """The part of a weight that a frozen policy brings.

    Attributes:
        policy: the frozen one.
        descends: of what its expected gradient is a positive multiple.
        away: the sign is reversed: the policy is driven away from the frozen one.
        credit: with `TOKEN` the states that are visited count as given; with the others it is the
            divergence of whole responses.
        shape: `g(X)`, a number for each piece.
        scale: what it is multiplied by, such as `1 / |y|`.
    """

    policy: str
    descends: Descends
    away: bool
    credit: Credit
    shape: Mapping[Piece, float]
    scale: tuple[Factor, ...]

    @property
    def bias_factors(self) -> tuple[Factor, ...]:
        """The factors of the scale that change with the response: with such a factor, a gradient is
        not that of any divergence."""
        return tuple(factor for factor in self.scale if factor.depends.on_response)

    @property
    def written(self) -> str:
        """`g(X)` in readable form."""
        return " + ".join(f"{c:g} {_written(piece)}" for piece, c in self.shape.items())


def _written(piece: Piece) -> str:
    j, k = piece
    if piece == SIGN:
        return "sign(X)"
    rate = {1.0: "X", -1.0: "-X"}.get(k, f"({k:g} X)")
    parts = [f"X^{j}" if j > 1 else "X" if j else "", f"e^{rate}" if k else ""]
    return " ".join(part for part in parts if part)


def penalties(estimator: Estimator) -> list[Penalty]:
    """The penalty against each frozen policy, for each of its scales; terms that are not functions
    of X are left out."""
    return [penalty for _, penalty in readings(estimator) if penalty is not None]


def readings(estimator: Estimator) -> Iterator[tuple[list[Term], Penalty | None]]:
    """The terms with a frozen policy at one scale, and their functions of X.

    The distances of other responses, and those of the tokens before, are baselines: they have no
    expectation, and are left out.
    """
    by_distribution = isinstance(estimator.leaf, n.LogDist)
    for policy in frozen(estimator.objective):
        groups: defaultdict[Factors, list[tuple[float, Term]]] = defaultdict(list)
        for term in estimator.of(Kind.PENALTY):
            distant = [factor for factor in term.factors if _distant(policy, factor)]
            if any(by_distribution or factor.depends.on_response for factor in distant):
                size, factors = estimator.sized(term)
                term = replace(term, factors=factors)
                scale = (f for f in _scale(policy, term) if not _masks(f))
                groups[frozenset((f.base, f.exponent) for f in scale)].append((size, term))
        for sized in groups.values():
            most = max(size for size, _ in sized)
            terms = [
                replace(term, coefficient=term.coefficient * size / most) for size, term in sized
            ]
            for part in _where_masks_hold(policy, terms):
                yield part, _penalty(policy, part, estimator.expand)


def _masks(factor: Factor) -> bool:
    """Whether a factor is 1 or 0: such a factor decides where the others count."""
    binary = isinstance(factor.base, n.Column) and set(factor.base.values) == {0.0, 1.0}
    return factor.exponent > 0 and (factor.base.boolean or binary)


def _where_masks_hold(policy: str, terms: list[Term]) -> list[list[Term]]:
    """Terms that occur together: `x - m x`, which is `x` where m does not hold, is either `x` or
    nothing, and never `-m x` alone. Combinations that leave multiples of the same function occur
    once."""
    masks = [frozenset(f.base for f in _scale(policy, term) if _masks(f)) for term in terms]
    every = sorted(frozenset[n.Expr]().union(*masks), key=lambda mask: mask.key)
    scale = (f for term in terms for f in _scale(policy, term))
    if len(every) > _MOST_MASKS or any(_masks(f) and _hides(policy, f) for f in scale):
        return [terms]
    by_shape: dict[frozenset[tuple[Factors, float]], list[Term]] = {}
    for truth in product((False, True), repeat=len(every)):
        true = {mask for mask, holds in zip(every, truth, strict=True) if holds}
        left: defaultdict[Factors, float] = defaultdict(float)
        present = [term for term, asks in zip(terms, masks, strict=True) if asks <= true]
        for term in present:
            distant = (f for f in term.factors if _distant(policy, f))
            left[frozenset((f.base, f.exponent) for f in distant)] += term.coefficient
        most = max((abs(c) for c in left.values()), default=0.0)
        if any(abs(c) > 1e-9 * abs(term.coefficient) for c in left.values() for term in present):
            shape = frozenset((factors, round(c / most, 9)) for factors, c in left.items())
            by_shape.setdefault(shape, present)
    return list(by_shape.values())


def _scale(policy: str, term: Term) -> tuple[Factor, ...]:
    """The factors of the function of the distance: a divisor is one of them, whatever it reads."""
    return tuple(f for f in term.factors if not _distant(policy, f))


def _distant(policy: str, factor: Factor) -> bool:
    """Whether a factor is part of the function of the distance to a policy."""
    ratio = isinstance(factor.base, n.Unary) and factor.base.op == "exp"
    reads = any(ratio.of == policy for ratio in factor.depends.ratios)
    return reads and (ratio or factor.exponent > 0)


def unread(estimator: Estimator) -> list[Term]:
    """The terms with a frozen policy that cannot be read as functions of X."""
    return [
        term
        for terms, penalty in readings(estimator)
        if penalty is None and not _vanishes(terms, estimator.expand)
        for term in terms
    ]


def _vanishes(terms: list[Term], expand: Expand) -> bool:
    """Whether the terms with a frozen policy are constants of the token, which have no gradient."""
    for term in terms:
        policies = {ratio.of for f in term.factors for ratio in f.depends.ratios}
        factors = [f for f in term.factors if any(_distant(policy, f) for policy in policies)]
        read = _read(frozenset((f.base, f.exponent) for f in factors), expand)
        if read is None or read[1].keys() - {(0, 0.0)}:
            return False
    return True


def _penalty(policy: str, terms: list[Term], expand: Expand) -> Penalty | None:
    shape: defaultdict[Piece, float] = defaultdict(float)
    credits = set()
    for term in terms:
        if any(_hides(policy, factor) for factor in _scale(policy, term)):
            return None
        factors = [f for f in term.factors if _distant(policy, f)]
        read = _read(frozenset((f.base, f.exponent) for f in factors), expand)
        if read is None:
            return None
        credits.add(read[0])
        for piece, number in read[1].items():
            shape[piece] += number * term.coefficient
    shape.pop((0, 0.0), None)  # a constant has no expected gradient
    most = max((abs(c) for c in shape.values()), default=0.0)
    shape = defaultdict(float, {k: c for k, c in shape.items() if abs(c) > 1e-9 * most})
    if len(credits) != 1 or not shape:
        return None
    credit = credits.pop()
    descends, away = named(shape)
    distant = [f for term in terms for f in term.factors if _distant(policy, f)]
    summed = credit is Credit.TO_GO or any(_is_sum(f) for f in distant)
    if summed and descends not in (Descends.REVERSE_KL, Descends.NO_DIVERGENCE):
        return None  # a sum of functions of tokens' X is no function of the response's
    return Penalty(policy, descends, away, credit, dict(shape), _scale(policy, terms[0]))


def _hides(policy: str, factor: Factor) -> bool:
    """Whether a factor of the scale makes the weight a different function: it changes with the
    sampled token, or with the distance itself, as the divisor of `X / sqrt(X^2 + c)` does, or it
    differs between given responses, as those of a pair."""
    near = any(ratio.of == policy for ratio in factor.depends.ratios)
    columns = (x for x in n.topological(factor.base) if isinstance(x, n.Column))
    return (
        Level.TOKEN in factor.depends.levels
        or "v" in factor.base.indices
        or any(isinstance(column_of(x).role, Data) for x in columns)
        or (near and not factor.depends.pooled)
    )


def _is_sum(factor: Factor) -> bool:
    """Whether it is a sum over the response of anything but the log-ratio itself."""
    base = factor.base
    return isinstance(base, n.Reduce) and not isinstance(base.x, LogRatio)


def _read(factors: Factors, expand: Expand) -> tuple[Credit, dict[Piece, float]] | None:
    """A product as a function of X, or of a sum of X over tokens; None if it is neither."""
    power, rate = 0, 0.0
    credits = set()
    for base, e in factors:
        match base:
            case LogRatio() | LogDistRatio() if e == int(e) > 0:
                power, credit = power + int(e), Credit.TOKEN
            case n.Unary("exp", LogRatio() | LogDistRatio()):
                rate, credit = rate + e, Credit.TOKEN
            case n.Reduce("sum", ("t",), LogRatio(), None) if e == int(e) > 0:
                power, credit = power + int(e), Credit.RESPONSE
            case n.Unary("exp", n.Reduce("sum", ("t",), LogRatio(), None)):
                rate, credit = rate + e, Credit.RESPONSE
            case n.Unary("sign", LogRatio()) if len(factors) == 1:
                return Credit.TOKEN, {SIGN: 1.0}
            case n.Scan(">=", x, None) if len(factors) == 1 and e == 1:
                return _summed(Credit.TO_GO, x, expand)
            case n.Scan("<=", x, None) if len(factors) == 1 and e == 1:
                return _summed(Credit.TOKEN, x, expand)  # what was before is a baseline
            case n.Reduce("sum", ("t",), x, None) if len(factors) == 1 and e == 1:
                return _summed(Credit.RESPONSE, x, expand)
            case _:
                return None
        credits.add(credit)
    if len(credits) != 1:
        return None
    return credits.pop(), {(power, rate): 1.0}


def _summed(credit: Credit, x: n.Expr, expand: Expand) -> tuple[Credit, dict[Piece, float]] | None:
    shape: defaultdict[Piece, float] = defaultdict(float)
    for factors, c in expand(x).terms.items():
        read = _read(factors, expand)
        nested = any(isinstance(base, n.Scan) for base, _ in factors)  # of sums so far
        if read is None or nested or read[0] is not Credit.TOKEN:
            return None
        for piece, number in read[1].items():
            shape[piece] += c * number
    return credit, dict(shape)


_NAMED: dict[Piece, tuple[float, Descends]] = {
    (1, 0.0): (1.0, Descends.REVERSE_KL),
    (0, 1.0): (1.0, Descends.FORWARD_KL),
    (0, 2.0): (1.0, Descends.CHI_SQUARE_REF),
    (0, -1.0): (-1.0, Descends.CHI_SQUARE_PI),
    SIGN: (1.0, Descends.TOTAL_VARIATION),
}


def named(shape: Mapping[Piece, float]) -> tuple[Descends, bool]:
    """The divergence that a weight `g(X)` descends, and whether the sign is reversed."""
    if len(shape) == 1:
        piece, c = next(iter(shape.items()))
        if piece in _NAMED:
            sign, name = _NAMED[piece]
            return name, c * sign < 0
    slopes = [_slope(shape, k / 20) for k in range(-300, 301)]
    tolerance = 1e-12 * max(abs(slope) for slope in slopes)
    if min(slopes) >= -tolerance:
        return Descends.SOME_DIVERGENCE, False
    if max(slopes) <= tolerance:
        return Descends.SOME_DIVERGENCE, True
    return Descends.NO_DIVERGENCE, False


def _slope(shape: Mapping[Piece, float], x: float) -> float:
    """`g'(X)`; that of `sign` is 0, except for its step."""
    return sum(
        c * ((j * x ** (j - 1) if j else 0.0) + k * x**j) * math.exp(k * x)
        for (j, k), c in shape.items()
        if (j, k) != SIGN
    )
