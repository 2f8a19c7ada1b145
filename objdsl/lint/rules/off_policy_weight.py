"""Off policy the weight of the reward is not the ratio of the response.

**What.** A weight of which the checker reads, near on policy or far from it, that it departs from
`prod[t] (pi / mu)` in a way that no other rule speaks of: a ratio that is cut, a baseline that is
not weighted with the reward, a weight that cannot be read.

**Why.** Under the sampler the weight that leaves the expected gradient what it is on policy is the
ratio of whole responses, in front of rewards and baselines alike. Any other one is biased by the
order of how far the policies are apart. That may well be worth its price: the ratio of a long
response has a variance that nothing can be learned with.

**Fine if** policies are near, which few updates for each rollout see to.

**Example.**

    A = reward - mean[j != i] reward
    maximize mean[p,i] surrogate(prod[t] (pi / mu), A, 0.8, 1.2)

**Instead.** Few updates for each rollout. `prod[t] (pi / mu)` is exact, for short responses.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, reading
from objdsl.lint.rule import Rule, rule


@rule("off-policy-weight", "OBJ404", Severity.NOTE, Claim.OFF_POLICY, rest=True)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    reasons = [one.reason for one in facts.departures if one.claim is Claim.OFF_POLICY]
    for reason in reasons[:1]:
        unread = reason is Reason.OTHER_WEIGHT
        policy = next(iter(facts.policy_weights)).policy
        yield rule.finding(
            "off policy this weight is not judged"
            if unread
            else "off policy the weight of the reward is not the ratio of the response",
            reading(facts, policy, rewarded=True) or facts.objective.goal.span,
            under=reason.value,
            labels=entry(facts) if unread else (),
            gradient="" if unread else "biased by the order of how far the policies are apart",
            help="measure it: objdsl audit --drift 0.3"
            if unread
            else "few updates for each rollout keep it small",
            fine_if="policies drift little",
        )
