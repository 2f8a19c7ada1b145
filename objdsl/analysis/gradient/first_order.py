"""How an objective departs from the true gradient off policy: which mismatch it corrects, and how
much.

Write `d = log pi - log old` and `e = log old - log mu` for each token: what was learned since the
rollout, and the disagreement of the two engines. The true weight of a reward is the product of `pi
/ mu` over the whole response, `1 + sum[t] (d + e)` to first order. An objective that multiplies the
reward by the token's own ratio has `1 + d_t`; by a geometric mean, `1 + mean[t] d`; by nothing, 1.
Every other weight with a derivative on policy has such a form, too: `4 sigmoid(r - 1)` has `1 + d_t
/ 2`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from enum import Enum
from itertools import product

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors, Sum, TooLargeError, atom, number, ordered
from objdsl.analysis.algebra.symbols import (
    Apart,
    Elsewhere,
    Kink,
    LogDistRatio,
    LogRatio,
    Ratio,
)
from objdsl.analysis.algebra.tangent import Tangent
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Term
from objdsl.analysis.values.dependence import is_reward
from objdsl.frozen import dataclass
from objdsl.ir.declarations import Branch

# The most masks for which every combination is tried.
_MOST_MASKS = 4
# Numbers with a smaller relative difference are equal up to rounding.
_EQUAL = 1e-9


class Reach(Enum):
    """Over which tokens of the response a ratio runs."""

    TOKEN = "the token's own ratio"
    MEAN = "the geometric mean over the response"
    BEFORE = "the product over the tokens before"
    AFTER = "the product over the tokens to come"
    PREFIX = "the product over the tokens so far"
    SEQUENCE = "the product over the response"
    OTHER = "a value that is no product of ratios"
    KINK = "a value that has a kink where the policies are one"


Powers = Mapping[Reach, float]
"""The coefficient of the log-ratio of a mismatch, for each reach; nan if it is not a number, but
changes with the response."""


@dataclass(frozen=True)
class Order:
    """The first-order weight of the own reward, where some masks hold and others do not.

    Attributes:
        drift: the coefficient of `d` by its reach; 1 over `SEQUENCE` is exact, none is 0.
        engine: that of `e`.
        holds: the masks that tell this branch from the others, each with whether it holds.
    """

    drift: Powers
    engine: Powers
    holds: Mapping[n.Expr, bool] = field(default_factory=dict)

    @staticmethod
    def times(powers: Powers) -> float:
        """How often the mismatch of a token is counted at most, in its own weight or that of a
        later token; exactly once is right."""
        now = (Reach.TOKEN, Reach.MEAN, Reach.PREFIX, Reach.SEQUENCE)
        later = (Reach.BEFORE, Reach.PREFIX, Reach.SEQUENCE)
        return max(sum(powers.get(reach, 0.0) for reach in reaches) for reaches in (now, later))

    @property
    def exact(self) -> bool:
        return self.drift == self.engine == {Reach.SEQUENCE: 1.0}


@dataclass(frozen=True)
class FirstOrder:
    """How the weight of a response's own reward changes off policy.

    Attributes:
        branches: its first order, once for each way in which masks may hold; a single one if no
            mask matters.
        kinks: the values that have a kink on policy, so that the weight has no derivative there.
    """

    branches: tuple[Order, ...]
    kinks: tuple[n.Expr, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.kinks and all(branch.exact for branch in self.branches)


def first_order(on: Estimator) -> FirstOrder | None:
    """How a weight changes off policy; None if it is too large to be read, or has no reward.

    Args:
        on: what the weight estimates on policy.
    """
    name = on.leaf.policy
    versions = [policy for policy, of in on.expand.same.items() if of == name] or ["old", "mu"]
    engines = [policy for policy in versions if policy == "mu"]
    tangents = [
        Tangent(on.expand, dict.fromkeys(policies, ratio), _statistic)
        for policies, ratio in ((versions, Ratio(name, "old")), (engines, Ratio("old", "mu")))
    ]
    try:
        weight = on.separated
        changes = [_changes(on, tangent) for tangent in tangents]
        orders = _orders(on, weight, changes)
    except TooLargeError:
        return None
    kinks = [node for tangent in tangents for node in tangent.kinks]
    at_a_kink = any(
        Reach.KINK in powers for order in orders for powers in (order.drift, order.engine)
    )
    return FirstOrder(orders, tuple(dict.fromkeys(kinks)) if at_a_kink else ()) if orders else None


def _statistic(node: n.Expr) -> bool:
    """Whether a value is a statistic of several responses' rewards. A statistic of rewards that
    contain a penalty changes with the policies by a part of 1 / G, and is not a weight of the
    response."""
    of_several = n.Reduce | n.Quantile | n.Order | n.Peers
    pools = isinstance(node, of_several) and node.over[0] != "t"
    return pools and any(is_reward(part) for part in n.topological(node))


def _orders(on: Estimator, weight: Sum, changes: list[dict[n.Expr, Sum]]) -> tuple[Order, ...]:
    """The first order where masks hold and where they do not, each different one once."""
    seen: list[tuple[Powers, Powers]] = []
    orders: list[Order] = []
    for holds in _branches(weight, *(x for change in changes for x in change.values())):
        here = _rewarded(on, _where(weight, holds))
        if not here.terms:
            continue
        drift, engine = (
            _powers({base: _rewarded(on, _where(x, holds)) for base, x in change.items()}, here)
            for change in changes
        )
        if not any(_same(drift, d) and _same(engine, e) for d, e in seen):
            seen.append((drift, engine))
            orders.append(Order(drift, engine, holds))
    return tuple(orders) if len(orders) > 1 else tuple(Order(*powers) for powers in seen)


def _same(a: Powers, b: Powers) -> bool:
    return a.keys() == b.keys() and all(
        math.isclose(a[reach], b[reach]) or (math.isnan(a[reach]) and math.isnan(b[reach]))
        for reach in a
    )


def _rewarded(on: Estimator, weight: Sum) -> Sum:
    """The terms of a weight that change with the response's own reward, without penalties."""
    return Sum({f: c for f, c in weight.terms.items() if on.weighs_own_reward(f)})


def _changes(on: Estimator, along: Tangent) -> dict[n.Expr, Sum]:
    """The change of a weight, by the log-ratio that it reads: the log-ratio itself, or a sum of it.
    Changes through other responses have no expectation."""
    change = replace(on, weight=along(on.weight)).separated
    by_base: defaultdict[n.Expr, Sum] = defaultdict(Sum)
    for factors, c in change.terms.items():
        moved = [base for base, _ in factors if _changed(base, along)]
        for base in moved[:1]:
            if not _of_others(base, on.branch) and not _cancels(base):
                by_base[base] += Sum({factors - {(base, 1.0)}: c})
    return by_base


def _of_others(base: n.Expr, branch: Branch | None) -> bool:
    """Whether a value is one of other responses, which share no token with this one."""
    if isinstance(base, Apart | Elsewhere):
        return True
    return isinstance(base, n.Peers) and base.relation == "!=" and branch is None


def _changed(base: n.Expr, along: Tangent) -> bool:
    """Whether a value contains the change."""
    ratios = {*along.direction.values()}
    return any(
        isinstance(x, Kink) or (isinstance(x, LogRatio | LogDistRatio) and x.ratio in ratios)
        for x in n.topological(base)
    )


def _reads_kink(base: n.Expr) -> bool:
    return any(isinstance(x, Kink) for x in n.topological(base))


def _cancels(base: n.Expr) -> bool:
    """Whether it is the mean of the log-ratios over the vocabulary, which is 0 to first order."""
    match base:
        case n.Reduce("sum", ("v",), n.Binary("mul", a, b), None):
            pair = {type(a), type(b)}
            return pair == {n.Unary, LogDistRatio} and any(
                isinstance(x, n.Unary) and x.op == "exp" and isinstance(x.x, n.LogDist)
                for x in (a, b)
            )
    return False


# --- branches ------------------------------------------------------------------------------------


def _branches(*sums: Sum) -> Iterator[dict[n.Expr, bool]]:
    """The ways in which the masks of some sums may hold."""
    bases = {base for x in sums for factors in x.terms for base, _ in factors}
    masks = {mask for base in bases if (mask := _mask(base)) is not None}
    if len(masks) > _MOST_MASKS:
        yield {}
        return
    every = sorted(masks, key=lambda mask: mask.key)
    for truth in product((True, False), repeat=len(every)):
        holds = dict(zip(every, truth, strict=True))
        if not any(_exclude(a, b) for a in every for b in every if holds[a] and holds[b]):
            yield holds


def _mask(base: n.Expr) -> n.Expr | None:
    match base:
        case n.Where(mask, n.Const(), n.Const()):
            return mask
    return base if base.boolean else None


def _exclude(a: n.Expr, b: n.Expr) -> bool:
    match a, b:
        case n.Binary("lt", x, zero), n.Binary("gt", y, other):
            return x == y and zero == other
    return False


def _where(x: Sum, holds: Mapping[n.Expr, bool]) -> Sum:
    """A sum under the assumption that some masks hold and others do not."""
    if not holds:
        return x
    result = Sum()
    for factors, c in x.terms.items():
        term = Sum({frozenset(f for f in factors if _mask(f[0]) not in holds): c})
        for base, exponent in factors:
            mask = _mask(base)
            if mask is None or mask not in holds:
                continue
            value = float(holds[mask])
            if isinstance(base, n.Where):
                side = base.a if holds[mask] else base.b
                assert isinstance(side, n.Const)
                value = side.value**exponent
            term = term * number(value)
        result = result + term
    return result


# --- powers --------------------------------------------------------------------------------------


def _powers(changes: Mapping[n.Expr, Sum], weight: Sum) -> Powers:
    """The coefficients of a log-ratio, over each reach, relative to the weight itself."""
    powers: defaultdict[Reach, float] = defaultdict(float)
    for base, change in changes.items():
        if not change.terms:
            continue
        match base:
            case _ if _reads_kink(base):
                powers[Reach.KINK] = math.nan
            case LogRatio():
                powers[Reach.TOKEN] += _times(change, weight)
            case n.Reduce("sum", ("t",), LogRatio(), None):
                total, mean = _sums(change, weight)
                powers[Reach.SEQUENCE] += total
                powers[Reach.MEAN if not math.isnan(mean) else Reach.OTHER] += mean
            case n.Scan(relation, LogRatio(), None):
                power = _times(change, weight)
                powers[Reach.BEFORE if relation[0] == "<" else Reach.AFTER] += power
                if relation[1:] == "=":
                    powers[Reach.TOKEN] += power
            case _:
                powers[Reach.OTHER] = math.nan
    _joined(powers, Reach.SEQUENCE, (Reach.BEFORE, Reach.TOKEN, Reach.AFTER))
    _joined(powers, Reach.PREFIX, (Reach.BEFORE, Reach.TOKEN))
    return {reach: power for reach, power in powers.items() if not abs(power) <= _EQUAL}


def _sums(change: Sum, weight: Sum) -> tuple[float, float]:
    """The numbers `(a, b)` for which `change` is `a * weight + b * weight / |y|`; `(0, nan)` if
    there are none."""

    def lengths(factors: Factors) -> float:
        return dict(factors).get(n.Length(), 0.0)

    mean = weight * atom(n.Length(), -1.0)
    longest = max(weight.terms, key=lambda factors: (lengths(factors), _key(factors)))
    total = change.terms.get(longest, 0.0) / weight.terms[longest]
    rest = change - weight.scaled(total)
    return (0.0, math.nan) if math.isnan(by := _times(rest, mean)) else (total, by)


def _key(factors: Factors) -> list[tuple[bytes, float]]:
    return [(base.key, e) for base, e in ordered(factors)]


def _joined(powers: defaultdict[Reach, float], whole: Reach, parts: tuple[Reach, ...]) -> None:
    """Replaces parts that add up to a whole by the whole."""
    first = powers.get(parts[0], 0.0)
    if first and all(math.isclose(powers.get(part, 0.0), first) for part in parts):
        powers[whole] += first
        for part in parts:
            del powers[part]


def _times(change: Sum, weight: Sum) -> float:
    """The number c for which a sum is c times the other; nan if there is none."""
    if not weight.terms:
        return math.nan
    factors, c = next(iter(weight.terms.items()))
    times = change.terms.get(factors, 0.0) / c
    most = max(map(abs, change.terms.values()), default=0.0)
    rest = change - weight.scaled(times)
    return math.nan if any(abs(x) > _EQUAL * most for x in rest.terms.values()) else times


# --- ratios --------------------------------------------------------------------------------------


def reach(x: Sum, expand: Expand) -> set[Reach]:
    """The tokens that the ratios of a product run over; empty if it is not a product of ratios."""
    only = x.product
    ratios = [_ratio(base, expand) for base, _ in only[0]] if only else []
    return {ratio[0] for ratio in ratios if ratio} if all(ratios) else set()


def _ratio(base: n.Expr, expand: Expand) -> tuple[Reach, n.LogProb | LogRatio] | None:
    """The reach of a probability, or of a mean or product of probabilities, and its logarithm; None
    for other values."""
    only = expand(base.x).product if isinstance(base, n.Unary) and base.op == "exp" else None
    if only is None or only[1] != 1:
        return None
    match sorted(only[0], key=lambda power: power[1]):
        case [(n.LogProb() | LogRatio() as log, 1.0)]:
            return Reach.TOKEN, log
        case [(n.Reduce("sum", ("t",), n.LogProb() | LogRatio() as log, None), 1.0)]:
            return Reach.SEQUENCE, log
        case [
            (n.Length(), -1.0),
            (n.Reduce("sum", ("t",), n.LogProb() | LogRatio() as log, None), 1.0),
        ]:
            return Reach.MEAN, log
        case [(n.Scan("<", n.LogProb() | LogRatio() as log, None), 1.0)]:
            return Reach.BEFORE, log
        case [(n.Scan("<=", n.LogProb() | LogRatio() as log, None), 1.0)]:
            return Reach.PREFIX, log
    return None


def versions(term: Term, expand: Expand) -> dict[str, float]:
    """The power of each policy in a product, counting the ratios of single tokens only."""
    powers: defaultdict[str, float] = defaultdict(float)
    for factor in term.factors:
        match _ratio(factor.base, expand):
            case Reach.TOKEN, n.LogProb(policy):
                powers[policy] += factor.exponent
    return dict(powers)
