"""The trained policy is read off a hidden layer, and a different one samples.

**What.** `policy inner = pi at layer 6`, where the ratio and the gradient are those of `inner`.

**Why.** Responses are drawn from `pi`. Under `pi` the expected score of `inner` is not 0, so
baselines do not cancel, and the gradient is not that of the expected reward of either policy.

**Fine if** it is a phase of a method, such as the first phase of BuPO.

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
                f"`{name}` is trained on responses that it did not sample",
                reading(facts, name, live=True),
                under="not the policy that samples",
                gradient=f"the expected score of {name} under pi is not 0: baselines do not cancel",
                fine_if="it is a phase of a method",
            )
