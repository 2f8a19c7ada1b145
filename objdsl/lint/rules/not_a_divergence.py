"""The gradient of this penalty is not that of any divergence.

**What.** The weight `g(X)`, `X = log(ref / pi)`, decreases somewhere: `r * k2` with a live ratio,
or k2 or k3 in the reward.

**Why.** A penalty with the weight `g(X)` descends an f-divergence if and only if g increases with
X (docs/criterion.md). Where it decreases, the penalty drives the policy away from the frozen one:
for k2 times a live ratio that is X > 1, where pi has lost most of the reference's tokens.

**Fine if** X never gets there.

**Example.**

    maximize mean[p,i] sum[t] (u * A - beta * u * k2(pi, ref))

**Instead.** As a rule of thumb: k1 and k3 with a live ratio, k2 with a detached one or none; k1 in
the reward.

**Papers.** A Comedy of Estimators, arXiv:2512.21852.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.divergence import Descends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading
from objdsl.lint.rule import Rule, rule


@rule("not-a-divergence", "OBJ304", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in facts.penalties:
        if penalty.descends is Descends.NO_DIVERGENCE:
            policy = penalty.policy
            yield rule.finding(
                f"the gradient of this penalty against `{policy}` is not that of any divergence",
                reading(facts, policy),
                under=f"the weight decreases as log({policy} / pi) increases",
                labels=penalty_label(facts),
                weight=f"g(X) = {penalty.written},   X = log({policy} / pi)",
                gradient="not that of an f-divergence: somewhere it drives the policy away",
                help="use k1 or k3 with a live ratio, k2 with a detached one, or k1 in the reward",
                fine_if=f"the policy stays near {policy}",
            )
