"""Advantages are divided by the standard deviation of the group's rewards.

**What.** `/ std[i] reward`, `/ (pstd[i] R + 1e-6)` and the like; a variance written out, a mean
distance from the mean or a range, which do the same.

**Why.** The deviation is a statistic of rewards that holds the own one. With rewards of 0 and 1
it bends nothing inside a prompt (the expectation of the weight given the own response is affine
in the own reward), but prompts weigh by a function of how hard they are: by `1 / sqrt(p (1 - p))`
in the limit of large groups, so that prompts that are nearly always or nearly never solved weigh
most. With other rewards the direction is bent too, by up to a half of the gradient, less in
larger groups.

**Fine if** that weighting is wanted: hard and easy prompts count for more.

**Example.**

    A = (reward - mean[i] reward) / (std[i] reward + 1e-4)

**Instead.** Leave it away, or divide by the deviation of the whole step, `std[p,i] reward`.

**Papers.** Dr. GRPO, arXiv:2503.20783, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.claims.shapes import deviation
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Factor
from objdsl.diagnostic import Claim, Diagnostic, Fix, Severity
from objdsl.lint.places import divided, entry, marked
from objdsl.lint.rule import Rule, rule


@rule("std-normalisation", "OBJ201", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for departure in facts.departing(Reason.GROUP_SPREAD):
        estimator, factor = departure.estimator, departure.factor
        assert estimator is not None
        assert factor is not None
        bent, written = departure.claim is Claim.DIRECTION, deviation(factor.base)
        group = facts.objective.sampling.group
        small = not bent and written and group is not None and group <= 3
        yield rule.finding(
            f"rewards are divided by the {'deviation' if written else 'spread'} of their own group",
            factor.origin.span,
            severity=Severity.NOTE if small else None,
            claim=departure.claim,
            under="holds the own reward",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            consequence="prompts that are nearly always or nearly never solved weigh most"
            if not small
            else "in a group of 2 or 3 the deviation of rewards of 0 and 1 is the same for "
            "every group that differs at all",
            gradient=_gradient(bent),
            help="leave it away, or divide by the deviation of the step (std[p,i])",
            fine_if="hard and easy prompts are to count for more",
            fix=_fix(facts, factor),
        )


def _gradient(bent: bool) -> str:
    if not bent:
        return "right for each prompt (rewards are 0 or 1); prompts weigh by how hard they are"
    return "bent by the own reward in the divisor, and prompts weigh by how hard they are"


def _fix(facts: Facts, factor: Factor) -> Fix | None:
    edit = divided(facts, factor.origin)
    return Fix("leave the divisor away", (edit,)) if edit else None
