"""The expected gradient is not that of the expected reward, for a reason without its own rule.

**What.** The checker can read off the weight that the expected gradient is not the gradient of the
expected reward, and no other rule reports the direction.

**Why.** Every bias is reported, so that silence means that the direction is right
(docs/criterion.md).

**Fine if** the effect was measured, or is the point of the method.

**Example.**

    z = (reward - mean[i] reward) / (std[i] reward + 1e-4)
    maximize mean[p,i] (clip(z, -1, 1) * sum[t] log(pi))

**Instead.** Measure the effect: `objdsl audit FILE`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Departure
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("bent-gradient", "OBJ113", Severity.NOTE, Claim.DIRECTION, rest=True)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    departures = [x for x in facts.departures if x.claim is Claim.DIRECTION]
    for departure in departures[:1]:
        yield rule.finding(
            "the expected gradient is not that of the expected reward",
            _place(departure) or facts.objective.goal.span,
            certainty=Certainty.LIKELY,
            under=departure.reason.value,
            labels=entry(facts),
            help="measure it: objdsl audit",
            fine_if="it is the point of the method",
        )


def _place(departure: Departure) -> Span | None:
    return departure.factor.origin.span if departure.factor else None
