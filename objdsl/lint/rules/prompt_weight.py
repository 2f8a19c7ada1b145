"""Prompts weigh differently, by a factor of the prompt or of the other responses.

**What.** A factor of the reward that does not depend on the response itself, or that, with rewards
of two values, changes only the prompt's weight: `1 / (1 + mean[j != i] |y|)`, a column
`given difficulty[p]`, `(reward - m) / m` with `m = mean[i] reward`.

**Why.** Within a prompt the gradient is that of the expected reward. Over prompts it is that of
`E[g(x) E[reward | x]]`: a prompt is weighted by its factor `g(x)`, averaged over the other
responses. Where no single policy can solve all prompts, that is a different objective.

**Fine if** it is the point of the method, as in MaxRL, which divides by how often a prompt is
solved.

**Example.**

    given reward in {0, 1}
    m = mean[i] reward
    maximize mean[p,i] (((reward - m) / m if m > 0 else 0) * sum[t] log(pi))

**Instead.** Divide by a constant, or by a statistic of the whole step.

**Papers.** MaxRL, maximum likelihood reinforcement learning, divides by the group's mean reward.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("prompt-weight", "OBJ111", Severity.NOTE, Claim.PROMPT_WEIGHTS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    seen = set()
    for estimator, factor in facts.factors(Reason.PROMPT_WEIGHT):
        place = factor.origin.span or facts.objective.goal.span
        if place in seen:
            continue
        seen.add(place)
        below = factor.exponent < 0
        yield rule.finding(
            "prompts weigh differently",
            place,
            under=f"{'divides' if below else 'multiplies'} every reward of a prompt",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            gradient="right for each prompt, which is weighted by this factor",
            help="divide by a constant, or by a statistic of the step",
            fine_if="it is the point of the method",
        )
