"""What is trained is a policy read off a hidden layer, and another one samples.

**What.** `policy inner = pi at layer 6`, with the ratio and the gradient those of `inner`.

**Why.** Responses are drawn from `pi`. The expected score of `inner` under it is not 0, so that
baselines do not cancel, and the gradient is not that of the reward that either policy gets.

**Fine if** it is a phase of a method, such as BuPO's first one.

**Example.**

    policy inner = pi at layer 6
    maximize mean[p,i,t] surrogate(inner / inner_old, A, 1 - eps, 1 + eps)

**Instead.** `pi`.

**Papers.** BuPO, arXiv:2512.19673.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("inner-policy", "OBJ414", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        name = estimator.leaf.policy
        if name != "pi":
            yield rule.finding(
                f"`{name}` is trained on responses that it does not write",
                reading(facts, name, live=True),
                under="not the policy that samples",
                gradient=f"the score of {name} has no expectation of 0 under pi: baselines "
                "do not cancel",
                fine_if="it is a phase of a method",
            )
