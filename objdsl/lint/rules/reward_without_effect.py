"""No reward has a part in the gradient.

**What.** The reward stands in what is maximised, and drops out of its derivative: `sg(pi / old) *
A` without a `log(pi)`, or an advantage beside the policy's term instead of in front of it. Or it
drops out on policy: `(pi / old - 1)^2 * A`, `max(pi / old, 3) * A`, `A = mean[j != i] reward`.

**Why.** What the reward multiplies has no gradient; or it has none while the policies are one, and
then nothing makes them two. The rewards of other responses are a baseline, and have no expectation.

**Fine if** never: write `report` for what is only to be seen.

**Example.**

    maximize mean[p,i] sum[t] (sg(pi / old) * A - beta * k2(pi, ref))

**Instead.** `pi / old * A`, or `sg(pi / old) * A * log(pi)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.dependence import is_reward
from objdsl.analysis.estimator import Direction
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Expr, topological
from objdsl.lint.rule import Rule, rule


@rule("reward-without-effect", "OBJ502", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    reward = _reward(facts.objective.goal)
    if reward is None or any(one.cancels for one in facts.live_divisors):
        return
    never = not any(_reward(w) for w in facts.weights.values())
    if never or _without_on_policy(facts):
        yield rule.finding(
            "no reward has a part in the gradient" + ("" if never else ", on policy"),
            reward.span,
            under="what this multiplies has no gradient"
            if never
            else "what this multiplies has none while the policies are one",
            value="changes with the reward",
            gradient="does not" if never else "does not, in expectation, until old is not pi",
            help="multiply by pi / old, or by log(pi)",
        )


def _without_on_policy(facts: Facts) -> bool:
    """Whether no weight changes with the own reward, all policies being one."""
    if len(facts.estimators) < len(facts.weights):
        return False  # whole distributions, a critic
    factors = (f for one in facts.estimators for term in one.terms for f in term.factors)
    return all(one.direction is Direction.NONE for one in facts.estimators) and not any(
        factor.depends.rewards and factor.depends.own for factor in factors
    )


def _reward(expr: Expr) -> Expr | None:
    return next((node for node in topological(expr) if is_reward(node)), None)
