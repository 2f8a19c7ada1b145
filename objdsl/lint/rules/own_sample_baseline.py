"""The baseline of a response depends on the response itself.

**What.** What is subtracted from the reward is a statistic of the group that holds the own
response, and not the plain mean: a weighted mean, a maximum, a median of three, a log-mean-exp.
Or it is a function of the own response: of its length, of its probability.

**Why.** A baseline costs nothing as long as it does not depend on the response: `E[b grad log pi]
= 0`. The plain mean of the group is the exception, being the leave-one-out mean times `(G - 1) /
G` plus the own reward over G, which is a scale. Any other statistic leaves a bias of the order of
1 / G: the length-weighted mean of OPO 0.11 of the gradient with 2 responses, 0.05 with 5. A
function of the own response alone leaves a bias that does not shrink at all.

**Fine if** groups are large, or another objective than the expected reward is meant.

**Example.**

    b = (sum[i] (|y| * reward)) / sum[i] |y|
    A = reward - b

**Instead.** The same statistic of the others, `sum[j != i]`, has no bias whatever it is.

**Papers.** RLOO, arXiv:2402.14740; OPO, arXiv:2505.23585.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("own-sample-baseline", "OBJ204", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    own = list(facts.factors(Reason.BASELINE))
    if own and not facts.departing(Reason.STEP_BASELINE):  # token-whitening
        estimator, guilty = max(
            own, key=lambda found: (found[1].depends.pooled, found[1].exponent < 0)
        )
        pooled = guilty.depends.pooled
        yield rule.finding(
            "the baseline depends on the response that it is subtracted from",
            guilty.origin.span,
            under="holds the own response",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, guilty.origin),
            gradient="biased by the order of 1 / group" if pooled else "biased, whatever the group",
            help="take it over the other responses: `j != i` in place of `i`"
            if pooled
            else "subtract something that the response does not change",
            fine_if="groups are large" if pooled else "it is meant as a part of the reward",
        )
