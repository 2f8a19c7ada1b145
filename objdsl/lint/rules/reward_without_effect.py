"""The gradient does not depend on any reward.

**What.** The reward is part of what is maximised, but drops out of the derivative:
`sg(pi / old) * A` without a `log(pi)`, or an advantage added to the policy's term instead of
multiplying it. Or it drops out on policy: `(pi / old - 1)^2 * A`, `max(pi / old, 3) * A`,
`A = mean[j != i] reward`.

**Why.** What the reward multiplies has no gradient; or it has none while the policies are equal,
and then nothing drives them apart. The rewards of other responses are a baseline, whose gradient
is 0 in expectation.

**Fine if** never: use `report` for values that should only be logged.

**Example.**

    maximize mean[p,i] sum[t] (sg(pi / old) * A - beta * k2(pi, ref))

**Instead.** `pi / old * A`, or `sg(pi / old) * A * log(pi)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import topological
from objdsl.lint.rule import Rule, rule


@rule("reward-without-effect", "OBJ502", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for column in facts.unraised:
        read = next(node for node in topological(facts.objective.goal) if node == column)
        yield rule.finding(
            f"nothing raises `{column.name}`",
            read.span,
            severity=Severity.WARNING,
            under="read, but never multiplies a gradient of its own response",
            gradient="that of the other rewards alone",
            help="add it to the objective, or declare it without `as reward`",
            fine_if="it is data, not a reward",
        )
    reward, never = facts.reward, not facts.reward_in_weights
    if reward is not None and facts.departing(Reason.NOTHING):
        yield rule.finding(
            "the gradient does not depend on any reward" + ("" if never else ", on policy"),
            reward.span,
            under="what this multiplies has no gradient"
            if never
            else "what this multiplies has no gradient while the policies are equal",
            value="changes with the reward",
            gradient="does not" if never else "does not, in expectation, until pi differs from old",
            help="multiply by pi / old, or by log(pi)",
        )
