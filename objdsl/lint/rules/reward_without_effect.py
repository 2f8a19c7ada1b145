"""No reward has a part in the gradient.

**What.** The reward stands in what is maximised, and drops out of its derivative: `sg(pi / old) *
A` without a `log(pi)`, or an advantage beside the policy's term instead of in front of it.

**Why.** What the reward multiplies has no gradient.

**Fine if** never: write `report` for what is only to be seen.

**Example.**

    maximize mean[p,i] sum[t] (sg(pi / old) * A - beta * k2(pi, ref))

**Instead.** `pi / old * A`, or `sg(pi / old) * A * log(pi)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.estimator import SIGNAL
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.ir.nodes import Column, Expr, topological
from objdsl.lint.rule import Rule, rule


@rule("reward-without-effect", "OBJ502", Severity.ERROR)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    reward = _reward(facts.objective.goal)
    if reward is not None and not any(_reward(w) for w in facts.weights.values()):
        yield rule.finding(
            "no reward has a part in the gradient",
            reward.span,
            under="what this multiplies has no gradient",
            value="changes with the reward",
            gradient="does not",
            help="multiply by pi / old, or by log(pi)",
        )


def _reward(expr: Expr) -> Expr | None:
    for node in topological(expr):
        if isinstance(node, Column) and node.name == SIGNAL:
            return node
    return None
