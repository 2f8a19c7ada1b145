"""The tokens of the step are averaged over: the divisor holds the response's own length.

**What.** `mean[p,i,t]`, or any division by the sum of all lengths of the step.

**Why.** The own length is one of many in the divisor, so the bias is of the order of one over the
number of responses: 0.036 of the gradient with 4 of them, nothing to speak of with hundreds.
Prompts weigh alike to first order.

**Fine if** the step has many responses; then it is a good choice, and this note may be ignored.

**Example.**

    maximize mean[p,i,t] surrogate(r, A, 1 - eps, 1 + eps)

**Instead.** With fewer than about 64 responses to a step: sum over the tokens, divide by a
constant.

**Papers.** DAPO's code (verl, TRL) does this, not the group's mean that the paper prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import head
from objdsl.lint.rule import Rule, rule


@rule("batch-token-mean", "OBJ104", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for _, factor in facts.factors(Reason.STEP_TOKENS):
        yield rule.finding(
            "each reward is divided by the tokens of the step, its own length among them",
            head(factor.origin),
            under="divides by sum[p,i] |y|",
            gradient="biased by the order of 1 / responses of the step",
            help="with fewer than 64 responses to a step, divide by a constant",
            fine_if="steps are large",
        )
