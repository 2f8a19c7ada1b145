"""Scores, and the functions that they are passed through: the form of offline objectives.

DPO is `logsigmoid(beta * margin)`, IPO a square of the margin, KTO a sigmoid; Kimi's and OAPL's
regressions are squares too. What stands inside is a *score*: a value that is linear in
log-probabilities. The first function around it that is not linear is its *link*. A score that
compares responses to one prompt is the margin of a preference.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors, Sum, TooLargeError, interval
from objdsl.analysis.values.dependence import depends
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO, neg, sub
from objdsl.ir.differentiate import differentiate
from objdsl.ir.indices import RESPONSE
from objdsl.ir.objective import Objective
from objdsl.ir.ops import UNARY

PREFERRED = ("chosen", "desirable")
"""Columns of preference datasets that are not 0 for a preferred response."""


class Kind(Enum):
    """The function that a score passes through."""

    LOGISTIC = "logsigmoid"
    SIGMOID = "sigmoid"
    SQUARE = "square"


@dataclass(frozen=True)
class Link:
    """A function of a score.

    Attributes:
        node: the value of the function, which is `sign` times that of its kind.
        score: linear in log-probabilities.
        expand: formulas as sums of products, all policies apart.
    """

    kind: Kind
    node: n.Expr
    score: n.Expr
    sign: int
    expand: Expand

    @cached_property
    def slopes(self) -> dict[n.LogProb, Sum]:
        """The derivatives as sums of products."""
        try:
            return {leaf: self.expand(slope) for leaf, slope in self.derivatives.items()}
        except TooLargeError:
            return {}

    @cached_property
    def derivatives(self) -> dict[n.LogProb, n.Expr]:
        """The derivative of the score by each trained log-probability."""
        derivatives = differentiate(self.score).items()
        return {leaf: slope for leaf, slope in derivatives if isinstance(leaf, n.LogProb)}

    @cached_property
    def policies(self) -> frozenset[str]:
        """The names of the policies that the score reads."""
        nodes = n.topological(self.score)
        return frozenset(part.policy for part in nodes if isinstance(part, n.LogProb | n.LogDist))

    @cached_property
    def is_margin(self) -> bool:
        """Whether it compares responses to one prompt, so that some raise it and others lower
        it."""
        nodes = n.topological(self.score)
        pooled = any(isinstance(part, n.Reduce | n.Peers) and "p" in part.over for part in nodes)
        per_token = "t" in self.score.indices
        return not pooled and not per_token and _signs(self.score, self.expand) == {1, -1}

    @cached_property
    def lengths(self) -> tuple[n.Expr, ...]:
        """The divisors of the score that change with the length of a response, in the form of the
        text where they occur there."""
        written = {part: part for part in n.topological(*self.derivatives.values()) if part.span}
        divisors: dict[n.Expr, n.Expr] = {}
        for slope in self.slopes.values():
            for factors in slope.terms:
                for base in _divisors(factors):
                    if "|y|" in depends(base).reads:
                        divisors[base] = written.get(base) or self.expand.origin.get(base, base)
        return tuple(divisors.values())


def _divisors(factors: Factors) -> list[n.Expr]:
    return sorted((base for base, e in factors if e < 0), key=lambda base: base.key)


def links(objective: Objective) -> tuple[Link, ...]:
    """Every link of what is maximised, from the inside of the formula outwards."""
    expand = Expand({param.name: param.default for param in objective.params})
    known: dict[n.Expr, bool] = {}
    result: dict[n.Expr, Link] = {}
    for node in n.topological(objective.goal):
        if not node.live or _linear(node, known):
            continue
        match match_link(node):
            case kind, score, sign if score.live and _linear(score, known):
                for inner in node.children:
                    result.pop(inner, None)  # log(sigmoid(x)) is one link, not two
                result[node] = Link(kind, node, score, sign, expand)
    return tuple(result.values())


def _linear(expr: n.Expr, known: dict[n.Expr, bool]) -> bool:
    """Whether a value is linear in current log-probabilities, as far as the gradient is
    concerned."""
    waiting = [expr]
    while waiting:
        node = waiting[-1]
        below = [child for child in node.children if child not in known] if node.live else []
        if below:
            waiting += below
            continue
        known[waiting.pop()] = not node.live or (
            _keeps_linear(node) and all(known[child] for child in node.children)
        )
    return known[expr]


def _keeps_linear(node: n.Expr) -> bool:
    """Whether a value is linear in its live operands, as far as its form shows."""
    match node:
        case n.LogProb() | n.LogDist() | n.Unary("neg") | n.Binary("add" | "sub"):
            return True
        case n.Scan() | n.Shift():
            return True
        case n.Binary("mul", a, b):
            return not (a.live and b.live)
        case n.Binary("div", _, b):
            return not b.live
        case n.Where(mask):
            return not mask.current
        case n.Reduce(op, _, _, mask) | n.Peers(op, _, _, _, _, mask):
            return op in ("sum", "mean") and not (mask is not None and mask.current)
    return False


@dataclass(frozen=True)
class Multiplier:
    """The number that a link is multiplied by in what is maximised; nan if it depends on data."""

    goal: n.Expr
    expand: Expand

    def at(self, name: str, value: float) -> Multiplier:
        return replace(self, expand=Expand({**self.expand.params, name: value}))

    def __call__(self, link: Link) -> float:
        return link.sign * self._of(self.goal, link.node)

    def _of(self, x: n.Expr, node: n.Expr) -> float:
        """The multiplier of a node in `x`; nan where the form of `x` does not show it."""
        if x == node:
            return 1.0
        if node not in n.topological(x):
            return 0.0
        match x:
            case n.Unary("neg", a):
                return -self._of(a, node)
            case n.Binary("add" | "sub" as op, a, b):
                sign = 1 if op == "add" else -1
                return self._of(a, node) + sign * self._of(b, node)
            case n.Binary("mul", a, b):
                inner, factor = (a, b) if a.live else (b, a)
                return self._of(inner, node) * self._number(factor)
            case n.Binary("div", a, b):
                divisor = self._number(b)
                return self._of(a, node) / divisor if divisor else math.nan
            case n.Reduce("sum" | "mean", _, inner):
                return self._of(inner, node)
        return math.nan

    def _number(self, x: n.Expr) -> float:
        value = _number(x, self.expand)
        return math.nan if value is None else value

    def reads(self, *links: Link) -> set[str]:
        """The parameters outside of the links."""
        inside = {node for link in links for node in n.topological(link.node)}
        outside = [node for node in n.topological(self.goal) if node not in inside]
        above = {child for node in outside for child in node.children} - {
            link.node for link in links
        }
        return {node.name for node in above if isinstance(node, n.Param)}


# --- kinds of links ------------------------------------------------------------------------------


def match_link(node: n.Expr) -> tuple[Kind, n.Expr, int] | None:
    """The kind of a function, its operand, and the sign in front of it; None for other
    functions."""
    x = _match_sigmoid(node)
    if x is not None:
        return Kind.SIGMOID, x, 1
    match node:
        case n.Unary("logsigmoid", score):
            return Kind.LOGISTIC, score, 1
        case n.Unary("log", inner):
            x = _match_sigmoid(inner)
            if x is not None:
                return Kind.LOGISTIC, x, 1
            z = _match_one_plus(inner)
            return None if z is None else (Kind.LOGISTIC, neg(z), -1)
        case n.Binary("pow", n.Unary("abs", score) | score, n.Const(2.0)):
            return Kind.SQUARE, score, 1
        case n.Binary("mul", a, b) if a in (b, neg(b)):
            return Kind.SQUARE, a, 1 if a == b else -1
    return None


def _match_sigmoid(node: n.Expr) -> n.Expr | None:
    """The x of `sigmoid(x)`, also as `1 - sigmoid(-x)` or `exp(a) / (exp(a) + exp(x + a))`."""
    match node:
        case n.Unary("sigmoid", x):
            return x
        case n.Binary("sub", n.Const(1.0), other):
            negated = _match_sigmoid(other)
            return None if negated is None else neg(negated)
        case n.Binary("div", a, n.Binary("add", p, q)) if a in (p, q):
            first, rest = _exponent(a), _exponent(q if a == p else p)
            return None if first is None or rest is None else sub(first, rest)
    return None


def _match_one_plus(node: n.Expr) -> n.Expr | None:
    """The z of `1 + exp(z)`."""
    match node:
        case n.Binary("add", a, b) if ONE in (a, b):
            return _exponent(b if a == ONE else a)
    return None


def _exponent(x: n.Expr) -> n.Expr | None:
    if x == ONE:
        return ZERO
    return x.x if isinstance(x, n.Unary) and x.op == "exp" else None


# --- what a score is made of ---------------------------------------------------------------------


def prefers(x: n.Expr, expand: Expand) -> int:
    """1 if a value rises with the probabilities of the preferred responses and falls with those of
    the others; -1 for the opposite; 0 for neither, or if it is not known."""
    for column in filter(_marks, n.topological(x)):
        better, worse = (_signs(n.replaced(x, {column: value}), expand) for value in (ONE, ZERO))
        for sign in (1, -1):
            if better <= {sign} and worse <= {-sign} and better | worse:
                return sign
    return 0


def _marks(node: n.Expr) -> bool:
    return isinstance(node, n.Column) and node.name in PREFERRED and node.indices == RESPONSE


def _signs(x: n.Expr, expand: Expand) -> set[int]:
    """The signs with which trained log-probabilities enter a value; both, where it is not known."""
    signs: set[int] = set()
    seen: set[tuple[n.Expr, int]] = set()
    stack = [(x, 1)]
    while stack:
        node, sign = stack.pop()
        if not node.live or (node, sign) in seen:
            continue
        seen.add((node, sign))
        match node:
            case n.LogProb() | n.LogDist():
                signs.add(sign)
            case n.Unary(op, a) if UNARY[op].rises:
                stack.append((a, sign * UNARY[op].rises))
            case n.Binary("add" | "min" | "max", a, b):
                stack += [(a, sign), (b, sign)]
            case n.Binary("sub", a, b):
                stack += [(a, sign), (b, -sign)]
            case n.Binary("mul", a, b) if a.live != b.live:
                inner, factor = (a, b) if a.live else (b, a)
                stack += [(inner, sign * by) for by in _signs_of(factor, expand)]
            case n.Binary("div", a, b) if not b.live:
                stack += [(a, sign * by) for by in _signs_of(b, expand)]
            case n.Where(mask, a, b):
                holds = _number(mask, expand)
                stack += [(a, sign)] if holds != 0 else []
                stack += [(b, sign)] if holds != 1 else []
            case n.Reduce("sum" | "mean" | "max" | "min", _, a, mask):
                stack += [(a, sign)] if mask is None or _number(mask, expand) != 0 else []
            case n.Peers("sum" | "mean" | "max" | "min", _, a, _, _, mask) if not a.paired:
                stack += [(a, sign)] if mask is None or _number(mask, expand) != 0 else []
            case n.Quantile(_, a) | n.Scan(_, a) | n.Shift(a):
                stack.append((a, sign))
            case _:
                signs |= {1, -1}
    return signs


def _number(x: n.Expr, expand: Expand) -> float | None:
    try:
        return expand(x).number
    except TooLargeError:
        return None


def _signs_of(factor: n.Expr, expand: Expand) -> list[int]:
    try:
        low, high = interval(expand(factor))
    except TooLargeError:
        return [1, -1]
    return [sign for sign, there in ((1, high > 0), (-1, low < 0)) if there]
