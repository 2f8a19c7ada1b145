"""Part of the objective was not checked: it is larger than what the checker reads.

**What.** A clip, a bound or a divisor that multiplies out to thousands of products; more
advantages and divisors with a gradient, or more terms, than the checker examines; a weight that
cannot be read.

**Why.** "Nothing to report" means that everything was checked. Whatever was not is reported, with
the reason.

**Fine if** it was measured.

**Example.**

    S = (reward + V_old + t + |y|)^4
    maximize mean[p,i] sum[t] (reward * log(pi) / (S^4 + 1))

**Instead.** `objdsl audit FILE` sums over all outcomes, whatever the formula is.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import extrema_left_out
from objdsl.lint.rule import Rule, rule


@rule("not-judged", "OBJ114", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if extrema_left_out(facts.objective.goal):
        yield rule.finding(
            "not all minima and maxima were checked",
            facts.objective.goal.span,
            claim=Claim.OFF_POLICY,
            under="more branches than the checker reads",
            help="measure it: objdsl audit --drift 0.3",
            fine_if="it was measured",
        )
    for departure in facts.departing(Reason.NOT_JUDGED):
        place = departure.node.span if departure.node else None
        yield rule.finding(
            f"this was not checked: {departure.claim.phrase}",
            place or facts.objective.goal.span,
            claim=departure.claim,
            under=departure.why,
            help="measure it: objdsl audit",
            fine_if="it was measured",
        )
