"""The reward of a response is divided by the length of the response.

**What.** `mean[t]` around the policy's term, or any other division by the response's own length
`|y|`.

**Why.** The gradient is that of the expected reward only if the coefficient of a response's own
reward is the same for every response. Here it is `1 / |y|`: the expected gradient is that of
`E[reward / |y|]`, with a baseline that depends on the response's own length. The shorter a right
answer, the more it is pushed up; the longer a wrong one, the less it is pushed down, so wrong
answers grow longer. The bias does not shrink with the group size: the residual of GRPO's gradient
is between a quarter and a half of the true gradient (`objdsl audit grpo`).

**Fine if** you reproduce a paper, or all responses have about the same length.

**Example.**

    maximize mean[p,i] mean[t] (A * log(pi))

**Instead.** Sum over the tokens, and divide by a constant; the learning rate makes up for the
scale.

    maximize mean[p,i] sum[t] (A * log(pi))

**Papers.** Dr. GRPO, arXiv:2503.20783, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Length
from objdsl.lint.places import entry, head, marked, summed
from objdsl.lint.rule import Rule, rule


@rule("length-normalisation", "OBJ101", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.LENGTH):
        divisor = factor.origin
        yield rule.finding(
            "each response's reward is divided by its own length",
            head(divisor),
            under="divides by |y|",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, Length()),
            consequence="a right answer of 200 tokens weighs 10 times as much as one of 2000; the "
            "longer "
            "a wrong answer, the less it is punished",
            value="raises E[reward / |y|]",
            gradient="not that of the expected reward; larger groups do not help",
            help="sum over the tokens and divide by a constant",
            fine_if="you reproduce a paper that does so",
            fix=summed(
                divisor, "sum over the tokens, and divide the learning rate by the mean length"
            ),
        )
