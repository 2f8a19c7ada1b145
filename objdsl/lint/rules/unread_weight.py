"""The weight multiplies out to more terms than are read: nothing is said about its direction.

**What.** A gradient weight that has thousands of products, or numbers beyond all bounds, once all
brackets are multiplied out.

**Why.** The checker reads a weight factor by factor (docs/criterion.md). Of one that it does not
read, no bias is proven, and that there is none is not proven either.

**Fine if** it was measured.

**Example.**

    S = (reward + V_old + t + |y|)^4
    maximize mean[p,i] sum[t] (S^4 * log(pi))

**Instead.** `objdsl audit FILE` sums over all outcomes, whatever the formula is.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Direction
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("unread-weight", "OBJ110", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.estimators:
        if estimator.direction is Direction.UNKNOWN:
            yield rule.finding(
                "this multiplies out to more terms than are read",
                facts.objective.goal.span,
                under="nothing is said about the direction of its gradient",
                help="measure it: objdsl audit",
                fine_if="it was measured",
            )
