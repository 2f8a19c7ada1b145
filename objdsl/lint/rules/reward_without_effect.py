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

from objdsl.analysis.claims.departures import Reason
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
            under="read, and beside no gradient of its own response",
            gradient="that of the other rewards",
            help="add it to what is raised, or declare it without `as reward`",
            fine_if="it is data, and no reward",
        )
    reward, never = facts.reward, not facts.reward_in_weights
    if reward is not None and facts.departing(Reason.NOTHING):
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
