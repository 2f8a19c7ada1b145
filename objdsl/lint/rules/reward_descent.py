"""The sign is turned: training lowers the reward.

**What.** The own reward stands in the weight `w = dJ / dlog pi` with a minus: what was to be
maximised is minimised, an advantage is `mean - reward`, a loss has lost its sign.

**Why.** The weight of the own reward is negative for every response, so the expected gradient
points away from that of the expected reward, whatever else there is to say of it.

**Fine if** the column is a cost.

**Example.**

    minimize mean[p,i] sum[t] (A * pi / old)

**Instead.** `maximize`, or a minus in front.
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
        for reward in estimator.falling:
            negative = next(estimator.negative, None)
            nodes = topological(facts.objective.goal)
            read = next(node for node in nodes if node == reward)
            named = f"`{reward.name}`" if len(facts.objective.rewards) > 1 else "the reward"
            yield rule.finding(
                f"the sign is turned: training lowers {named}",
                negative.origin.span if negative else read.span,
                under="weighs it, and is never above 0"
                if negative
                else "the higher, the less likely its response becomes",
                labels=entry(facts),
                weight=f"w = {facts.written(estimator.weight)}",
                gradient="away from that of the expected reward",
                help="a logarithm of a probability is no weight: leave it away, or stop the "
                "gradient of what stands beside it instead"
                if negative
                else "turn the sign: `maximize` for `minimize`, or a minus in front",
                fine_if="the column is a cost",
            )
