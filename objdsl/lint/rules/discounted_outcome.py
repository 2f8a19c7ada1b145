"""A reward at the end of a response is discounted: early tokens receive less of it.

**What.** A return with gamma below 1, or lambda below 1 without a critic that makes up for it, and
a reward that arrives with the last token.

**Why.** Token t receives `gamma^(|y| - t) reward`: the gradient is not that of the expected
reward, but one that prefers short responses. With gamma 0.9 and four tokens, a tenth of it is
bias.

**Fine if** short responses are wanted.

**Example.**

    A = togo((t == |y|) * reward, 0.99)

**Instead.** gamma 1. With a critic, lambda below 1 is unbiased as far as the critic is accurate.

**Papers.** GAE, arXiv:1506.02438; VC-PPO, arXiv:2503.01491.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
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
                "the further a token is from the end, the less of the reward it receives",
                factor.origin.span,
                under="discounts a reward that arrives with the last token",
                labels=entry(facts),
                weight=marked(facts, estimator.weight, factor.origin),
                consequence="at 0.99 the first of 500 tokens receives less than a hundredth of it; "
                "short responses are preferred",
                gradient="not that of the expected reward",
                help="use gamma = 1",
                fine_if="short responses are wanted",
            )
