"""Advantages are divided by a standard deviation over the whole step.

**What.** `/ std[p,i] reward`, or whitening over the tokens of the step.

**Why.** It is a random scale, the same for all rewards of the step, which holds the own reward as
one of many: the direction is bent by the order of one over the number of responses (0.0065 of the
gradient with 4 of them).

**Fine if** steps are large; it keeps the scale of the gradient when rewards change theirs.

**Example.**

    A = (reward - mean[i] reward) / (std[p,i] reward + 1e-6)

**Papers.** Lite PPO, arXiv:2508.08221, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("batch-std", "OBJ202", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for _, factor in facts.factors(Reason.STEP_SPREAD):
        yield rule.finding(
            "rewards are divided by a deviation over the step, their own among them",
            factor.origin.span,
            under="a random scale of the step",
            gradient="biased by the order of 1 / responses of the step",
            fine_if="steps are large",
        )
