"""Small numbers that are added to probabilities, to keep a logarithm or a quotient finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import OfPolicies
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, sub

_SMALL = 1e-3


@dataclass(frozen=True)
class Epsilon:
    """The sum of a small number and a probability `q`, a ratio, or `1 - q`.

    Attributes:
        node: the sum.
        size: the small number.
        without: the sum without it.
        beside_one: whether the probability is subtracted from 1.
    """

    node: n.Expr
    size: float
    without: n.Expr
    beside_one: bool


def epsilons(goal: n.Expr, params: Mapping[str, float]) -> Iterator[Epsilon]:
    """Every argument of a logarithm and every divisor with such a small number, once each."""
    seen: set[n.Expr] = set()
    for node in n.topological(goal):
        match node:
            case n.Unary("log", x) | n.Binary("div", _, x) if x not in seen:
                seen.add(x)
                epsilon = _match_epsilon(x, params)
                if epsilon is not None:
                    yield epsilon


def _match_epsilon(x: n.Expr, params: Mapping[str, float]) -> Epsilon | None:
    parts = _parts(x)
    numbers = [(sign, _number(part, params)) for sign, part in parts]
    others = [(sign, part) for sign, part in parts if _number(part, params) is None]
    if len(others) != 1 or not _is_probability(others[0][1]):
        return None
    ((sign, probability),) = others
    total = sum(sign * number for sign, number in numbers if number is not None)
    size = total if sign > 0 else total - 1
    # The small number of `1 + 1e-8 - q` is 1e-8.
    if not 0 < size <= _SMALL:
        return None
    without = probability if sign > 0 else sub(ONE, probability)
    return Epsilon(x, size, without if x.live else n.Stop(without), beside_one=sign < 0)


def _parts(x: n.Expr, sign: int = 1) -> list[tuple[int, n.Expr]]:
    match x:
        case n.Unary("neg", a):
            return _parts(a, -sign)
        case n.Binary("add", a, b):
            return _parts(a, sign) + _parts(b, sign)
        case n.Binary("sub", a, b):
            return _parts(a, sign) + _parts(b, -sign)
        case n.Stop(a):
            return _parts(a, sign)
    return [(sign, x)]


def _number(x: n.Expr, params: Mapping[str, float]) -> float | None:
    match x:
        case n.Const(value):
            return value
        case n.Param(name):
            return params[name]
    return None


def _is_probability(x: n.Expr) -> bool:
    """Whether it is a probability of a token or a vocabulary entry, or a ratio of two."""
    reads = any(isinstance(part, OfPolicies) for part in n.topological(x))
    return reads and isinstance(x, n.Unary) and x.op == "exp" and "t" in x.indices
