"""When the weight of a token is known, and which tokens have none: this decides the schedule.

The gradient of the language-model head is `sum_t w_t (onehot(y_t) - p_t) h_t`. It can be formed in
the pass that computes the logits if `w_t` is known by then.
"""

from __future__ import annotations

from enum import IntEnum
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO, both, div, mul, neg, where
from objdsl.ir.differentiate import Leaf, is_learned, weights_of
from objdsl.ir.objective import Objective


class Coupling(IntEnum):
    """Which current log-probabilities the weight of a token needs. Each level includes those before
    it."""

    KNOWN = 0
    """None: the weight is data, known before the forward pass."""
    TOKEN = 1
    """The log-probability of its token, and the distribution there."""
    RESPONSE = 2
    """The log-probabilities of its whole response."""
    STEP = 3
    """The log-probabilities of other responses."""


@dataclass(frozen=True)
class Separated:
    """A weight `scale * share`.

    Attributes:
        scale: one number per response, known when all of its log-probabilities are.
        share: one number per token, known with its own log-probability.
    """

    scale: n.Expr
    share: n.Expr


@dataclass(frozen=True)
class Coupled:
    """What is known of the weights of an objective before it meets data.

    Attributes:
        log_prob: what the weight of the sampled token's log-probability needs; None if there is no
            such weight.
        distribution: what the weight of the whole distribution needs; None if there is none.
        name: the policy that is trained.
        may_be_nonzero: a mask, computed from data, that is true wherever the weight of the sampled
            token is not 0; None if every token may have a weight.
        separated: the weight of the sampled token's log-probability, if only a factor that all
            tokens of a response share needs the whole response.
    """

    log_prob: Coupling | None
    distribution: Coupling | None
    name: str
    may_be_nonzero: n.Expr | None
    separated: Separated | None = None

    @property
    def worst(self) -> Coupling:
        return max(c for c in (self.log_prob, self.distribution) if c is not None)


def coupled(objective: Objective, *, statistics: bool = False) -> Coupled:
    """The coupling of an objective that trains one policy.

    Args:
        statistics: whether the values that couple responses are already known, for the whole step
            and the current policy; then nothing needs other responses any more.

    Raises:
        ValueError: it trains no policy, or several.
    """
    weights = weights_of(objective)
    policies = {leaf.policy for leaf in weights if isinstance(leaf, n.LogProb | n.LogDist)}
    if len(policies) != 1:
        raise ValueError(f"{objective.name} trains {len(policies)} policies; a head belongs to one")
    others = [leaf for leaf in weights if not is_learned(leaf)]
    log_prob = _weight_of(weights, n.LogProb)
    distribution = _weight_of(weights, n.LogDist)
    return Coupled(
        None if log_prob is None else coupling(log_prob, statistics=statistics),
        None if distribution is None else coupling(distribution, statistics=statistics),
        policies.pop(),
        None if log_prob is None or distribution is not None else may_be_nonzero(log_prob),
        None if log_prob is None or len(others) > 1 else separated(log_prob),
    )


def _weight_of(weights: dict[Leaf, n.Expr], kind: type[n.Expr]) -> n.Expr | None:
    return next((w for leaf, w in weights.items() if isinstance(leaf, kind)), None)


def coupling(weight: n.Expr, *, statistics: bool = False) -> Coupling:
    """Which current values a weight needs; with `statistics`, those of the whole step are known."""
    return _couplings(weight, statistics)[weight]


def is_statistic(node: n.Expr) -> bool:
    """Whether a value is computed from several responses and the current policy, so that it needs
    the whole step: one number for all of its rows, or a comparison of them."""
    if not node.current:
        return False
    if len(node.indices) < 2:
        return True
    return isinstance(node, n.Peers | n.Order | n.Pick) and node.over[0] in ("p", "i")


def _couplings(weight: n.Expr, statistics: bool = False) -> dict[n.Expr, Coupling]:
    known: dict[n.Expr, Coupling] = {}
    for node in n.topological(weight):
        if not node.current or (statistics and is_statistic(node)):
            known[node] = Coupling.KNOWN
        else:
            known[node] = _node(node, known, statistics)
    return known


def _node(node: n.Expr, known: dict[n.Expr, Coupling], statistics: bool) -> Coupling:
    below = max((known[child] for child in node.children), default=Coupling.TOKEN)
    match node:
        case (
            n.Reduce(_, over)
            | n.Peers(_, over)
            | n.Order(_, over)
            | n.Quantile(over)
            | n.Pick(over)
        ):
            if "p" in over or "i" in over:
                return Coupling.STEP
            return max(below, Coupling.RESPONSE) if "t" in over else below
        case n.Scan() | n.Shift():
            return max(below, Coupling.RESPONSE)
        case n.Unary() | n.Binary() | n.Clip() | n.Where() | n.Stop() | n.Present():
            return below
        case n.LogProb() | n.LogDist() | n.Column() | n.Symbol():
            return below
        case n.Const() | n.Param() | n.Length() | n.Position():
            raise TypeError(f"a {type(node).__name__} does not change with the policy")
    assert_never(node)


def separated(weight: n.Expr) -> Separated | None:
    """A weight that needs its whole response, as a factor of the response times one of the token.

    None if it needs less, or more, or if no such factors are seen: `s_i + a_t` has none.
    """
    known = _couplings(weight)
    if known[weight] is not Coupling.RESPONSE:
        return None
    return _match_factors(weight, known)


def _match_factors(x: n.Expr, known: dict[n.Expr, Coupling]) -> Separated | None:
    if known[x] <= Coupling.TOKEN:
        return Separated(ONE, x)
    if "t" not in x.indices:
        return Separated(x, ONE)
    match x:
        case n.Stop(a):
            return _match_factors(a, known)
        case n.Unary("neg", a) if (inner := _match_factors(a, known)) is not None:
            return Separated(inner.scale, neg(inner.share))
        case n.Binary("mul" | "div" | "add" | "sub" as op, a, b):
            first, second = _match_factors(a, known), _match_factors(b, known)
            if first is None or second is None:
                return None
            if op in ("mul", "div"):
                join = mul if op == "mul" else div
                return Separated(join(first.scale, second.scale), join(first.share, second.share))
            if first.share == second.share:
                return Separated(n.Binary(op, first.scale, second.scale), first.share)
            if first.scale == second.scale:
                return Separated(first.scale, n.Binary(op, first.share, second.share))
        case n.Where(m, a, b) if b == ZERO and (inner := _match_factors(a, known)) is not None:
            scale, share = inner.scale, inner.share
            for condition in _conjuncts(m):
                if known[condition] <= Coupling.TOKEN:
                    share = where(condition, share, ZERO)
                elif "t" not in condition.indices:
                    scale = where(condition, scale, ZERO)
                else:
                    return None
            return Separated(scale, share)
    return None


def _conjuncts(mask: n.Expr) -> list[n.Expr]:
    match mask:
        case n.Binary("and", a, b):
            return _conjuncts(a) + _conjuncts(b)
    return [mask]


def may_be_nonzero(weight: n.Expr) -> n.Expr | None:
    """A mask, computed from data, that holds wherever a weight is not 0: the weight's own masks,
    and its factors that may be 0. None if none is seen."""
    match weight:
        case n.Stop(x) | n.Unary("neg", x):
            return may_be_nonzero(x)
        case n.Where(m, a, b) if b == ZERO:
            return _both(_known_conditions(m), may_be_nonzero(a))
        case n.Binary("mul", a, b):
            return _both(_nonzero(a), _nonzero(b))
        case n.Binary("div", a, _):
            return _nonzero(a)
        case n.Binary("add" | "sub", a, b):
            first, second = may_be_nonzero(a), may_be_nonzero(b)
            if first is None or second is None:
                return None
            return first if first == second else n.Binary("or", first, second)
    return None


def _known_conditions(mask: n.Expr) -> n.Expr | None:
    """The conditions of a mask that do not read current values; None if there are none."""
    if not mask.current:
        return mask
    match mask:
        case n.Binary("and", a, b):
            return _both(_known_conditions(a), _known_conditions(b))
    return None


def _nonzero(x: n.Expr) -> n.Expr | None:
    """Where a factor is not 0, as far as data tell; None if it never is 0, or they do not tell."""
    if x.current:
        return may_be_nonzero(x)
    match x:
        case n.Where(m, a, b) if b == ZERO:
            return _both(m, _nonzero(a))
        case n.Unary("neg", a) | n.Stop(a) | n.Binary("div", a, _):
            return _nonzero(a)
        case n.Binary("mul", a, b):
            return _both(_nonzero(a), _nonzero(b))
        case n.Reduce("sum", _, inner, _) if inner == ONE:
            return None
    return n.Binary("ne", x, ZERO) if x.indices else None


def _both(a: n.Expr | None, b: n.Expr | None) -> n.Expr | None:
    if a is None or b is None:
        return b if a is None else a
    return both(a, b)
