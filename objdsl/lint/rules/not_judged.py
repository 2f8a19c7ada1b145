"""Part of the objective was not checked: it is larger than what the checker reads.

**What.** A clip, a bound or a divisor that multiplies out to thousands of products; more
advantages and divisors with a gradient, or more terms, than the checker examines; a weight that
cannot be read; conditions on `step` that change again and again, beyond the steps that were looked
at.

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
from objdsl.ir.phases import Phases, reads_steps
from objdsl.lint.places import extrema_left_out
from objdsl.lint.rule import Rule, rule


def undecided(phases: Phases) -> Iterator[Diagnostic]:
    """What a schedule leaves open: what it does later, or at other times of a run."""
    if phases.known is not None:
        yield check.finding(
            f"conditions on `step`, and signs that it changes, were decided for the first "
            f"{phases.known} steps",
            None,
            claim=Claim.STYLE,
            help="measure a later step: objdsl audit --step N",
            fine_if="it goes on in the same way, or no run is as long",
        )
    for schedule in phases.loose:
        yield check.finding(
            "the sign of this schedule changes, and was taken from one step alone",
            schedule.span,
            claim=Claim.STYLE,
            under="where conditions count rollouts, and this counts parts of a run"
            if reads_steps(schedule)
            else "where conditions count parts of a run, and this counts rollouts",
            help="let both read `steps`, or neither",
            fine_if="it was measured at other steps",
        )


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
