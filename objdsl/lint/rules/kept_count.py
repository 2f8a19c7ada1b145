"""A mask that depends on the response changes the divisor.

**What.** `mean[i | m]` over responses or `mean[t | m]` over tokens, or a division by a sum of
masks, where the mask changes with the response: truncated responses excluded, only tokens of high
entropy, and so on.

**Why.** The divisor is a statistic of the group that includes the response itself: with groups of
2 the residual is 0.18 of the true gradient. If the divisor counts the elements before masking
there is no such bias; the masked responses simply drop out. A count of prompts causes no bias
where the prompts that are not counted have no advantage anyway, as in GPG: a prompt that has an
advantage counts as one, whatever the response is, and its weight changes only with how many of the
other prompts are counted.

**Fine if** the group is large, or the divisor is over the whole step.

**Example.**

    maximize mean[p] mean[i | not truncated] (A * sum[t] log(pi))

**Instead.** `mean[i] (0 if truncated else ...)`.

**Papers.** DAPO, arXiv:2503.14476, overlong filtering. GPG, arXiv:2504.02546, divides by the
number of prompts whose rewards differ.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, head, marked
from objdsl.lint.rule import Rule, rule


@rule("kept-count", "OBJ602", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.COUNT):
        batch = factor.depends.batch
        if factor.base in estimator.counts_of_others:
            yield rule.finding(
                "the divisor counts only the prompts whose rewards have a weight",
                head(factor.origin),
                severity=Severity.NOTE,
                claim=Claim.PROMPT_WEIGHTS,
                under="counts prompts by their rewards",
                labels=entry(facts),
                weight=marked(facts, estimator.weight, factor.base),
                gradient="right for each prompt; its weight changes by the order of 1 / step",
                help="divide by the number of all prompts",
                fine_if="the step is large",
            )
            return
        yield rule.finding(
            "the divisor is a masked count that depends on the response itself",
            head(factor.origin),
            severity=Severity.NOTE if batch else None,
            under="counts what the mask keeps",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.base),
            gradient=f"biased by the order of 1 / {'step' if batch else 'group'}",
            help="divide by the count before masking: `mean[i] (x if m else 0)`",
            fine_if="the group is large",
        )
        return
