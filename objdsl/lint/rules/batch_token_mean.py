"""The mean is over all tokens of the step: the divisor includes the response's own length.

**What.** `mean[p,i,t]`, or any other division by the total number of tokens in the step.

**Why.** A response's own length is one of many in the divisor, so the bias is of the order of one
over the number of responses: 0.036 of the gradient with 4 responses, negligible with hundreds. To
first order all prompts have the same weight.

**Fine if** the step has many responses; then it is a good choice, and this note can be ignored.

**Example.**

    maximize mean[p,i,t] surrogate(r, A, 1 - eps, 1 + eps)

**Instead.** With fewer than about 64 responses per step, sum over the tokens and divide by a
constant.

**Papers.** DAPO's code (verl, TRL) does this; the paper prints a mean over each group.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import head
from objdsl.lint.rule import Rule, rule


@rule("batch-token-mean", "OBJ104", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for _, factor in facts.factors(Reason.STEP_TOKENS):
        yield rule.finding(
            "each reward is divided by the step's token count, which includes its own length",
            head(factor.origin),
            under="divides by sum[p,i] |y|",
            gradient="biased by the order of 1 / (responses per step)",
            help="with fewer than 64 responses per step, divide by a constant",
            fine_if="steps are large",
        )
