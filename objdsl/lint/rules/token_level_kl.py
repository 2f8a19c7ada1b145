"""A penalty token by token: the effect of a token on later states does not count.

**What.** An estimate of a divergence of the next-token distributions, in the loss or as an
immediate reward.

**Why.** The gradient of `KL(pi || ref)` over responses also holds each token accountable for the
log-ratios of all later tokens. Token by token these terms are missing: the states that pi visits
are treated as fixed. The cosine between the two is 0.93 on small random policies; k2 in the loss,
k3 with a live ratio and k1 as an immediate reward are all like this.

**Fine if** a penalty that keeps the next-token distributions close is all that is wanted; it has
less variance.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - beta * k2(pi, ref))

**Instead.** k1 in the reward, as a reward-to-go:

    cost = sum[s >= t] k1(old, ref)
    maximize mean[p,i] sum[t] ((A - beta * cost) * log(pi))

**Papers.** A Comedy of Estimators, arXiv:2512.21852; arXiv:2506.09477.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.divergence import Credit, Descends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("token-level-kl", "OBJ306", Severity.NOTE, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in (*facts.penalties, *facts.distribution_penalties):
        if penalty.descends is Descends.REVERSE_KL and penalty.credit is Credit.TOKEN:
            policy = penalty.policy
            yield rule.finding(
                f"KL(pi || {policy}) state by state: later states are treated as fixed",
                reading(facts, policy),
                under="each token counts its own log-ratio alone",
                gradient="that of the reverse KL of next tokens, not of responses"
                + facts.weighted(penalty),
                help="for responses, use k1 in the reward, `sum[s >= t]`",
                fine_if="the next-token distributions are what should stay close",
            )
