"""The weight has more terms than the checker reads: its direction is not checked.

**What.** A gradient weight that has thousands of products, or numbers beyond all bounds, once all
brackets are multiplied out.

**Why.** The checker reads a weight factor by factor (docs/criterion.md). For a weight that it
cannot read, no bias is proven, and neither is the absence of one.

**Fine if** it was measured.

**Example.**

    S = (reward + V_old + t + |y|)^4
    maximize mean[p,i] sum[t] (S^4 * log(pi))

**Instead.** `objdsl audit FILE` sums over all outcomes, for any formula.
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
                "this multiplies out to more terms than the checker reads",
                facts.objective.goal.span,
                under="the direction of its gradient is not checked",
                help="measure it: objdsl audit",
                fine_if="it was measured",
            )
