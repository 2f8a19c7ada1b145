"""No reward is recognised: the direction of the gradient is not checked.

**What.** The objective reads no `reward` and declares no column `as reward`, and none of its
columns is certain to be one.

**Why.** For each reward the checker asks whether the gradient is that of its expectation. Without
a reward, the rules on the direction, on prompt weights and on ratios (`OBJ1xx`, `OBJ2xx`,
`OBJ4xx`) have nothing to check, and their silence means nothing.

**Fine if** no expectation should be raised: imitation of given responses.

**Example.**

    given correct[p,i]
    given format[p,i]
    A = correct + format - mean[j != i] (correct + format)
    maximize mean[p,i] sum[t] (pi / old * A)

**Instead.** Declare what is a reward: `given correct[p,i] as reward`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.lint.rule import Rule, rule


@rule("undeclared-reward", "OBJ214", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.departing(Reason.NO_REWARD):
        return
    columns = facts.perhaps_rewards
    declared = [f"`given {x.name}[{','.join(x.over)}] as reward`" for x in columns]
    labels = [Label(x.span, "and this?") for x in columns[1:3] if x.span is not None]
    yield rule.finding(
        "no reward is recognised: the direction of the gradient is not checked",
        columns[0].span if columns else facts.objective.goal.span,
        severity=Severity.WARNING if facts.samples and columns else None,
        under="is this a reward?" if columns else "",
        labels=tuple(labels),
        consequence="the rules on the direction, on prompt weights and on ratios did not run "
        "(OBJ1xx, OBJ2xx, OBJ4xx)",
        help=f"declare it: {', '.join(declared[:3])}" if declared else "",
        fine_if="no expectation should be raised, as in imitation",
    )
