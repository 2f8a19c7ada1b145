"""Advantages are centred by a mean over the step's tokens, where long responses count more.

**What.** `A - mean[p,i,t] A`: whitening over tokens.

**Why.** The mean weights each response by its length, including its own: the baseline depends on
the response's own length and reward, by the order of one over the number of responses in the step.
With one prompt and groups of 2 to 5 the residual is 0.31 to 0.20 of the true gradient; with many
prompts it is small.

**Fine if** steps are large.

**Example.**

    A = (reward - mean[p,i,t] reward) / (std[p,i,t] reward + 1e-8)

**Instead.** Centre by the mean over responses, `mean[p,i]`, or over the group, `mean[i]`.

**Papers.** REINFORCE++, arXiv:2501.03262.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Reduce
from objdsl.lint.places import head
from objdsl.lint.rule import Rule, rule


@rule("token-whitening", "OBJ206", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for _, factor in facts.factors(Reason.STEP_BASELINE):
        weighted = isinstance(factor.base, Reduce) and factor.base.op == "sum"
        yield rule.finding(
            "the subtracted mean weights responses by a property of their own"
            if weighted
            else "a statistic of the step that includes the response's own reward is subtracted",
            head(factor.origin),
            under="a statistic of the step that includes the response itself",
            gradient="biased by the order of 1 / (responses per step)",
            help="centre by a mean over responses (mean[p,i])",
            fine_if="steps are large",
        )
        return
