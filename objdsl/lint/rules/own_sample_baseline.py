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

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Scan
from objdsl.lint.places import discounts, entry, is_mask, marked
from objdsl.lint.rule import Rule, rule


@rule("own-sample-baseline", "OBJ204", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    live = set(facts.passing)
    for estimator in facts.meant:
        bends = [bend.factor for bend in estimator.bends if not bend.everywhere]
        if any(factor.depends.batch for factor in bends):
            continue  # token-whitening
        # Where the reward is discounted, so are the values.
        discounted = any(discounts(bend.factor.base) for bend in estimator.bends)
        own = [
            f
            for f in bends
            if not is_mask(f.base)
            and not (discounted and isinstance(f.base, Scan))
            and not (f.base == estimator.leaf and f.base in live)  # live-weight
        ]
        if not own:
            continue
        guilty = max(own, key=lambda factor: (factor.depends.pooled, factor.exponent < 0))
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
