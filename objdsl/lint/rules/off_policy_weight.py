"""Off policy, the weight of the reward is not the importance ratio of the response.

**What.** The checker reads that the weight departs from `prod[t] (pi / mu)`, close to on policy or
far from it, in a way that no other rule reports: a ratio that is cut, a baseline that is not
weighted along with the reward, or a weight that cannot be read.

**Why.** The weight under which the sampler's responses give the same expected gradient as
on-policy ones is the ratio of whole responses, in front of rewards and baselines alike. Any other
weight is biased by the order of the distance between the policies. That may well be worth it: for
long responses the ratio has a variance that makes learning impossible.

**Fine if** policies stay close, which few updates per rollout ensure.

**Example.**

    A = reward - mean[j != i] reward
    maximize mean[p,i] surrogate(prod[t] (pi / mu), A, 0.8, 1.2)

**Instead.** Few updates per rollout. `prod[t] (pi / mu)` is exact, for short responses.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, reading
from objdsl.lint.rule import Rule, rule


@rule("off-policy-weight", "OBJ404", Severity.NOTE, Claim.OFF_POLICY, rest=True)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    reasons = [
        departure.reason for departure in facts.departures if departure.claim is Claim.OFF_POLICY
    ]
    for reason in reasons[:1]:
        unread = reason is Reason.OTHER_WEIGHT
        policy = next(iter(facts.policy_weights)).policy
        yield rule.finding(
            "off policy this weight was not checked"
            if unread
            else "off policy the weight of the reward is not the ratio of the response",
            reading(facts, policy, rewarded=True) or facts.objective.goal.span,
            under=reason.value,
            labels=entry(facts) if unread else (),
            gradient="" if unread else "biased by the order of the distance between the policies",
            help="measure it: objdsl audit --drift 0.3"
            if unread
            else "few updates per rollout keep it small",
            fine_if="the policies stay close",
        )
