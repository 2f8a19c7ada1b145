"""A reward at the end of the response is discounted: early tokens of long responses get less of it.

**What.** A return with gamma below 1, or lambda below 1 without a critic that makes up for it,
and a reward that comes with the last token.

**Why.** Token t gets `gamma^(|y| - t) reward`: the gradient is not that of the expected reward,
but one that prefers short responses. At gamma 0.9 and four tokens a tenth of it is bias.

**Fine if** short responses are wanted.

**Example.**

    A = togo((t == |y|) * reward, 0.99)

**Instead.** gamma 1. With a critic, lambda below 1 is no bias as far as the critic is right.

**Papers.** GAE, arXiv:1506.02438; VC-PPO, arXiv:2503.01491.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.claims.shapes import discounts
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("discounted-outcome", "OBJ209", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.DISCOUNT):
        if discounts(factor.base):
            yield rule.finding(
                "a token gets the less of the reward the further it is from the end",
                factor.origin.span,
                under="discounts a reward that comes with the last token",
                labels=entry(facts),
                weight=marked(facts, estimator.weight, factor.origin),
                consequence="at 0.99 the first token of 500 gets less than a hundredth of it; "
                "short responses are preferred",
                gradient="not that of the expected reward",
                help="take gamma = 1",
                fine_if="short responses are wanted",
            )
