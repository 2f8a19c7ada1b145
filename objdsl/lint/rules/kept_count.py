"""A mask that depends on the response changes what the others are divided by.

**What.** `mean[i | m]` over responses or `mean[t | m]` over tokens, or a division by a sum of
masks, where the mask changes with the response: truncated ones left out, tokens of high entropy
only.

**Why.** The divisor is a statistic of the group that holds the own response: what is left of the
gradient beside the true one is 0.18 of it with groups of 2. With the count before the mask in the
divisor there is no such bias; only the masked responses are gone. A number of prompts bends nothing
where those that are not counted have no advantage anyway, as in GPG: a prompt that has one counts
as one, whatever the response is, and what changes its weight is how many of the others do.

**Fine if** the group is large, or the divisor is over the whole step.

**Example.**

    maximize mean[p] mean[i | not truncated] (A * sum[t] log(pi))

**Instead.** `mean[i] (0 if truncated else ...)`.

**Papers.** DAPO, arXiv:2503.14476, overlong filtering. GPG, arXiv:2504.02546, divides by the
prompts whose rewards differ.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
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
                "what is divided by counts the prompts whose rewards have a weight",
                head(factor.origin),
                severity=Severity.NOTE,
                claim=Claim.PROMPT_WEIGHTS,
                under="counts prompts by their rewards",
                labels=entry(facts),
                weight=marked(facts, estimator.weight, factor.base),
                gradient="right for each prompt, whose weight changes by the order of 1 / step",
                help="divide by the number of all prompts",
                fine_if="the step is large",
            )
            return
        yield rule.finding(
            "what is divided by counts what a mask leaves, the own response among it",
            head(factor.origin),
            severity=Severity.NOTE if batch else None,
            under="counts what the mask leaves",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.base),
            gradient=f"biased by the order of 1 / {'step' if batch else 'group'}",
            help="divide by the number before the mask: `mean[i] (x if m else 0)`",
            fine_if="the group is large",
        )
        return
