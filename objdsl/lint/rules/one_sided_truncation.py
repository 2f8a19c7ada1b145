"""Rewards of one sign are weighted by a truncated ratio of single tokens, the others by none.

**What.** `1 if A > 0 else min(pi / mu, 1)` in front of `log(pi)`, and the like: TOPR with the
ratio of the token in place of that of the response.

**Why.** TOPR limits the effect of wrong responses by how likely the *response* still is: once it
is unlikely, its weight is 0, and nothing pushes it further. A token's ratio knows nothing about
the other tokens: if one token has made a response a thousand times less likely, all other tokens
are still pushed down at full weight. And the weight of the reward is no longer that of truncated
importance sampling, on which the paper's proof relies.

**Fine if** you reproduce a framework that does this.

**Example.**

    w = 1 if A >= 0 else sg(min(pi / mu, 1))
    maximize mean[p,i] sum[t] (w * A * log(pi))

**Instead.** `min(prod[t] (pi / mu), 1)`.

**Papers.** TOPR, arXiv:2503.14286, eq. 8; ROLL uses the ratio of the token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Factors, TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import Reach, reach
from objdsl.analysis.values.dependence import depends, is_reward
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.build import exp
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule


@rule("one-sided-truncation", "OBJ708", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    near = facts.near_policy
    for estimator in facts.rewarded:
        try:
            terms = near(estimator.weight).terms
        except TooLargeError:
            continue
        truncated = {factors: base for factors in terms if (base := _truncated(factors, near))}
        if not truncated or len(truncated) == len(terms):
            continue
        if all(map(_of_a_sign, truncated)) or _without_reward_1(truncated, terms):
            base = next(iter(truncated.values()))
            yield rule.finding(
                "rewards of one sign are weighted by a truncated ratio of single tokens",
                near.origin.get(base, base).span,
                under="the ratio of one token",
                labels=entry(facts),
                consequence="if one token has made a response unlikely, its other tokens are "
                "still pushed at full weight",
                gradient="not that of TOPR, which truncates the ratio of the response",
                help="put prod[t] (...) inside the truncation",
                fine_if="you reproduce a framework that does this",
            )
            return


def _truncated(factors: Factors, near: Expand) -> n.Expr | None:
    """A factor that is a ratio of one token with an upper bound of at most its value on policy."""
    for base, _ in factors:
        logs = isinstance(base, n.Unary) and base.op == "exp"
        for x in _held(base.x if isinstance(base, n.Unary) else base):
            if reach(near(exp(x) if logs else x), near) == {Reach.TOKEN}:
                return base
    return None


def _held(x: n.Expr) -> tuple[n.Expr, ...]:
    """What a clip or a `min` bounds from above; nothing if a value has another form."""
    match x:
        case n.Clip(inner, _, _):
            return (inner,)
        case n.Binary("min", a, b):
            return a, b
    return ()


def _of_a_sign(factors: Factors) -> bool:
    """Whether a product only applies to some rewards: by a mask, or as `min(reward, 0)`."""
    return any((base.boolean or _held(base)) and depends(base).rewards for base, _ in factors)


def _without_reward_1(truncated: Mapping[Factors, n.Expr], terms: Mapping[Factors, float]) -> bool:
    """Whether rewards of 0 and 1 are declared, and the products cancel where the reward is 1."""
    totals: defaultdict[Factors, float] = defaultdict(float)
    for factors in truncated:
        totals[frozenset(power for power in factors if not _is_binary_reward(power[0]))] += terms[
            factors
        ]
    return not any(totals.values())


def _is_binary_reward(base: n.Expr) -> bool:
    return isinstance(base, n.Column) and is_reward(base) and set(base.values) == {0.0, 1.0}
