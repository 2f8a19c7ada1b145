"""The clipped surrogate is taken the wrong way round: max where min is meant.

**What.** `max(r * A, clip(r) * A)` in what is maximised, or `min` in what is minimised.

**Why.** The minimum is pessimistic: no reward for moving further than the bounds. The maximum is
the opposite: it rewards moving out of them without bound, and has no gradient within reach of the
way back. The cosine to the policy gradient off policy is 0.63 on average, and negative at worst.

**Fine if** never.

**Example.**

    maximize mean[p,i,t] max(r * A, clip(r, 1 - eps, 1 + eps) * A)

**Instead.** `min` in what is maximised; `max` of the negatives in what is minimised.

**Papers.** PPO, arXiv:1707.06347, eq. 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from objdsl.analysis.estimator import on_policy
from objdsl.analysis.expand import TooLarge, interval
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.differentiate import clipped_surrogate, differentiate
from objdsl.ir.nodes import Binary, Column, Expr, topological
from objdsl.lint.rule import Rule, rule


@rule("optimistic-clip", "OBJ408", Severity.ERROR)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    goal = facts.objective.goal
    for node in topological(goal):
        if not isinstance(node, Binary) or node.op not in ("min", "max") or not node.live:
            continue
        if clipped_surrogate(node) is None:
            continue
        low, high = _slope(facts, node)
        if (node.op == "max" and low >= 0 < high) or (node.op == "min" and high <= 0 > low):
            yield rule.finding(
                f"`{node.op}` rewards the policy for leaving the bounds of the clip",
                node.span,
                under="the optimistic side",
                consequence="the ratio is driven out of its bounds, and nothing brings it back",
                help="min in what is maximised, max of the negatives in what is minimised",
            )


def _slope(facts: Facts, node: Binary) -> tuple[float, float]:
    """Bounds of the derivative of the objective by the value of a node."""
    stand_in = Column("surrogate", node.indices, trained=True)
    done: dict[Expr, Expr] = {}
    for one in topological(facts.objective.goal):
        done[one] = stand_in if one == node else one.rebuilt(done)
    weights = differentiate(done[facts.objective.goal])
    weight = next((w for leaf, w in weights.items() if leaf == stand_in), None)
    if weight is None:
        return 0.0, 0.0
    try:
        return interval(replace(on_policy(facts.objective))(weight))
    except TooLarge:
        return -1.0, 1.0
