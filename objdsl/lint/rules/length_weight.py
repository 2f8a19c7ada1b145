"""The reward of a response is weighted by a function of its length.

**What.** Any factor of all rewarded terms that depends on the response's own length, except
`1 / |y|`, which is `length-normalisation`: `|y|^2`, `1 / sqrt(|y|)`, `exp(-|y| / 100)`, a length
divided by the mean length.

**Why.** With the coefficient `g(|y|)` the expected gradient is that of `E[g(|y|) reward]`: if
rewards are positive, responses are pushed towards lengths where g is large. `|y|` twice, from an
explicit factor and from a sum over tokens that a ratio already contains, is the same mistake made
by accident.

**Fine if** the weight is the point of the method.

**Example.**

    maximize mean[p,i] ((sum[t] (A * log(pi))) / sqrt(|y|))

**Instead.** No weight; or express the preference for lengths in the reward.

**Papers.** lambda-GRPO, arXiv:2510.06870, learns such a weight.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, head, marked
from objdsl.lint.rule import Rule, rule


@rule("length-weight", "OBJ108", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.LENGTH_WEIGHT):
        yield rule.finding(
            "each response's reward is weighted by a function of its length",
            head(factor.origin),
            under="depends on the response's own length",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.base),
            consequence="the policy is drawn towards the lengths that weigh most",
            gradient="that of the expected reward times this weight",
            fine_if="the weight is the point of the method",
        )
