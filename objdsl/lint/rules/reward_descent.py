"""The sign is wrong: training lowers the reward.

**What.** A response's own reward has a negative sign in the weight `w = dJ / dlog pi`: what should
be maximised is minimised, an advantage is `mean - reward`, or a loss has lost its sign.

**Why.** The weight of the reward is negative for every response, so the expected gradient points
away from that of the expected reward, whatever else may be wrong.

**Fine if** the column is a cost.

**Example.**

    minimize mean[p,i] sum[t] (A * pi / old)

**Instead.** `maximize`, or change the sign of the term.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import topological
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule


@rule("reward-descent", "OBJ510", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        for reward in estimator.lowered:
            negative = next(estimator.never_positive, None)
            nodes = topological(facts.objective.goal)
            read = next(node for node in nodes if node == reward)
            named = f"`{reward.name}`" if len(facts.objective.rewards) > 1 else "the reward"
            yield rule.finding(
                f"the sign is wrong: training lowers {named}",
                negative.origin.span if negative else read.span,
                under="multiplies it, and is never above 0"
                if negative
                else "the higher it is, the less likely its response becomes",
                labels=entry(facts),
                weight=f"w = {facts.written(estimator.weight)}",
                gradient="points away from that of the expected reward",
                help="a logarithm of a probability is not a weight: drop it, or stop the "
                "gradient of the other factor instead"
                if negative
                else "change the sign: exchange `maximize` and `minimize`, or negate the term",
                fine_if="the column is a cost",
            )
