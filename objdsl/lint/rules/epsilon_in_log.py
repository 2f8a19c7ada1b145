"""A small number is added to a probability, to keep a logarithm or a quotient finite.

**What.** `log(pi + 1e-8)`, `pi / (old + 1e-8)`, `log(1 - pi + 1e-8)` and their like.

**Why.** Probabilities live in log space here: `log(pi)` and `pi / old` are exact, whatever the
size of `pi`, and there is nothing to be kept from 0. What the number does do is to bend the
gradient: that of `log(pi + c)` is `pi / (pi + c)` times that of `log(pi)`, so that a token of
probability c is pushed at half weight and one of `c / 100` at a hundredth of it. Those are the
tokens that exploration is about. Beside a 1, on the other hand, it is lost: in float32 `1 + 1e-8`
is 1.

**Fine if** it is far below the smallest probability that is sampled; then it may go just as well.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi + 1e-8))

**Instead.** `log(pi)`, `pi / old`; for `1 - pi`, which can be 0, `log(1 - min(pi, 0.999))`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Edit, Fix, Severity
from objdsl.ir.nodes import (
    Binary,
    Const,
    Expr,
    LogDist,
    LogProb,
    Param,
    Stop,
    Unary,
    topological,
)
from objdsl.lint.rule import Rule, rule

_SMALL = 1e-3


@rule("epsilon-in-log", "OBJ616", Severity.NOTE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    params = {param.name: param.default for param in facts.objective.params}
    seen: set[Expr] = set()
    for node in topological(facts.objective.goal):
        match node:
            case Unary("log", x) | Binary("div", _, x):
                pass
            case _:
                continue
        epsilon = _epsilon(x, params)
        if x in seen or epsilon is None or x.span is None:
            continue
        seen.add(x)
        beside_one = any(sign < 0 for sign, part in _parts(x) if _is_probability(part))
        yield rule.finding(
            "a small number is added to a probability",
            x.span,
            under="is exact without it" if not beside_one else "is 1 - pi, and a number",
            gradient=f"p / (p + {epsilon:g}) of what it would be, for a token of probability p"
            if not beside_one
            else "bounded by it, where float32 can tell it from nothing",
            help="leave it away: probabilities are kept as logarithms"
            if not beside_one
            else "bound pi itself: min(pi, 0.999)",
            fine_if="it is far below every probability that is sampled",
            fix=None if beside_one else _without(x),
        )


def _epsilon(x: Expr, params: dict[str, float]) -> float | None:
    """The small number that is added to a probability or ratio, or to `1 - pi`."""
    parts = _parts(x)
    numbers = [(sign, _number(part, params)) for sign, part in parts]
    if len(parts) - sum(n is not None for _, n in numbers) != 1:
        return None
    (sign,) = [sign for sign, part in parts if _is_probability(part)] or [0]
    total = sum(sign * n for sign, n in numbers if n is not None)
    epsilon = total if sign > 0 else total - 1
    # 1e-8 is what is left of 1 + 1e-8 - 1.
    return epsilon if sign and 0 < epsilon <= _SMALL else None


def _parts(x: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    match x:
        case Unary("neg", a):
            return _parts(a, -sign)
        case Binary("add", a, b):
            return _parts(a, sign) + _parts(b, sign)
        case Binary("sub", a, b):
            return _parts(a, sign) + _parts(b, -sign)
        case Stop(a):
            return _parts(a, sign)
    return [(sign, x)]


def _number(x: Expr, params: dict[str, float]) -> float | None:
    match x:
        case Const(value):
            return value
        case Param(name):
            return params[name]
    return None


def _is_probability(x: Expr) -> bool:
    """Whether it is a probability or a ratio of some, of one token or word."""
    reads = any(isinstance(one, LogProb | LogDist) for one in topological(x))
    return reads and isinstance(x, Unary) and x.op == "exp" and "t" in x.indices


def _without(x: Expr) -> Fix | None:
    match x:
        case Binary("add", Const() | Param(), kept) | Binary("add", kept, Const() | Param()):
            if x.span is not None and kept.span is not None:
                return Fix("leave it away", (Edit(x.span, kept.span.text),))
    return None
