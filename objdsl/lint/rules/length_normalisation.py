"""The reward of a response is divided by the length of the response.

**What.** `mean[t]` above the policy's term, or any other division by `|y|` of the own response.

**Why.** The gradient follows that of the expected reward only if the coefficient of the own
reward is the same for every response. Here it is `1 / |y|`: the expected gradient is that of
`E[reward / |y|]` and of a baseline that depends on the own length. A right answer is pushed up
the more the shorter it is; a wrong one is pushed down the less the longer it is, so that wrong
answers grow. The bias does not shrink with the size of the group: what is left of GRPO's gradient
beside the true direction is between a quarter and a half of it (`objdsl audit grpo`).

**Fine if** a paper is reproduced, or all responses are about equally long.

**Example.**

    maximize mean[p,i] mean[t] (A * log(pi))

**Instead.** Sum over the tokens, and divide by a constant; the learning rate makes up for the
scale.

    maximize mean[p,i] sum[t] (A * log(pi))

**Papers.** Dr. GRPO, arXiv:2503.20783, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
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
            consequence="a right answer of 200 tokens weighs 10 times one of 2000, and a wrong "
            "answer is punished the less the longer it is",
            value="raises E[reward / |y|]",
            gradient="not that of the expected reward; more responses do not help",
            help="sum over the tokens and divide by a constant",
            fine_if="you reproduce a paper that does so",
            fix=summed(
                divisor, "sum over the tokens, and divide the learning rate by the mean length"
            ),
        )
