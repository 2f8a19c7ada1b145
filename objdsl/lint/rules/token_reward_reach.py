"""A reward of a token does not reach all tokens that led to it with one constant.

**What.** A process reward that weighs its own token alone, that leaves its own token out, or that
is discounted by how far away it is.

**Why.** A token answers for all rewards that come after it, its own included: the gradient of the
expected sum is `E[sum_t s_t sum[s >= t] r_s]`. What came before is known, and changes nothing. With
a discount `g < 1` a reward reaches a token n places before it by `g^n`: early tokens hardly answer
for what comes of them.

**Fine if** what is near is to count for more.

**Example.**

    given progress[p,i,t] as reward
    maximize mean[p,i] sum[t] (progress * log(pi))

**Instead.** `sum[s >= t] progress`, or all of it, `sum[t] progress`. With a critic, a lambda below
1 is no bias as far as the critic is right.

**Papers.** PRIME, arXiv:2502.01456; GAE, arXiv:1506.02438.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Scan
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("token-reward-reach", "OBJ213", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.REACH):
        name = next(iter(factor.depends.rewards))
        discounted = isinstance(factor.base, Scan) and factor.base.decay is not None
        yield rule.finding(
            f"a token gets the less of `{name}` the further away it comes"
            if discounted
            else f"not all of `{name}` that is to go reaches a token",
            factor.origin.span,
            under="discounted" if discounted else "does not reach the tokens up to it",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            gradient="not that of the expected sum of these rewards",
            help="take a discount of 1"
            if discounted
            else f"`sum[s >= t] {name}` is what is to go, with the token's own",
            fine_if="what is near is to count for more",
        )
