"""A token's reward does not reach all the tokens that led to it with equal weight.

**What.** A process reward that is credited to its own token alone, that omits its own token, or
that is discounted by distance.

**Why.** A token should be credited with its own reward and all later ones: the gradient of the
expected sum is `E[sum_t s_t sum[s >= t] r_s]`. Earlier rewards are already known, and change
nothing. With a discount `g < 1`, a token n positions earlier receives `g^n` of the reward: early
tokens are hardly credited with their consequences.

**Fine if** nearby rewards should count more.

**Example.**

    given progress[p,i,t] as reward
    maximize mean[p,i] sum[t] (progress * log(pi))

**Instead.** `sum[s >= t] progress`, or all of it, `sum[t] progress`. With a critic, a lambda below
1 is unbiased as far as the critic is accurate.

**Papers.** PRIME, arXiv:2502.01456; GAE, arXiv:1506.02438.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
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
            f"the later `{name}` comes, the less of it a token receives"
            if discounted
            else f"a token does not receive all of its reward-to-go of `{name}`",
            factor.origin.span,
            under="discounted" if discounted else "does not reach all tokens up to its own",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            gradient="not that of the expected sum of these rewards",
            help="use a discount of 1"
            if discounted
            else f"`sum[s >= t] {name}` is the reward-to-go, including the token's own",
            fine_if="nearby rewards should count more",
        )
