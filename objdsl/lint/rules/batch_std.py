"""Advantages are divided by the standard deviation of the whole step.

**What.** `/ std[p,i] reward`, or whitening over the tokens of the step.

**Why.** The divisor is a random scale, the same for all rewards of the step. A response's own
reward is one of the rewards in it, so the direction is biased by the order of one over the number
of responses (0.0065 of the gradient with 4 responses).

**Fine if** steps are large; the division keeps the scale of the gradient when the rewards change
theirs.

**Example.**

    A = (reward - mean[i] reward) / (std[p,i] reward + 1e-6)

**Papers.** Lite PPO, arXiv:2508.08221, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("batch-std", "OBJ202", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for _, factor in facts.factors(Reason.STEP_DISPERSION):
        yield rule.finding(
            "each reward is divided by a standard deviation over the step that includes it",
            factor.origin.span,
            under="a random scale, the same for the whole step",
            gradient="biased by the order of 1 / (responses per step)",
            fine_if="steps are large",
        )
