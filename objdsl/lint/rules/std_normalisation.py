"""Advantages are divided by the standard deviation of the group's rewards.

**What.** `/ std[i] reward`, `/ (pstd[i] R + 1e-6)` and the like; a variance written out, a mean
distance from the mean, or a range, which have the same effect.

**Why.** The standard deviation is a statistic of rewards that includes the response's own. With
rewards of 0 and 1 it causes no bias within a prompt (the expectation of the weight given the
response is affine in its reward), but prompts are weighted by how hard they are: by
`1 / sqrt(p (1 - p))` in the limit of large groups, so prompts that are nearly always or nearly
never solved weigh most. With other rewards the direction is biased too, by up to half of the
gradient, less in larger groups.

**Fine if** that weighting is wanted: hard and easy prompts count more.

**Example.**

    A = (reward - mean[i] reward) / (std[i] reward + 1e-4)

**Instead.** Drop the division, or divide by the standard deviation of the whole step,
`std[p,i] reward`.

**Papers.** Dr. GRPO, arXiv:2503.20783, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.claims.shapes import has_deviation
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.terms import Factor
from objdsl.diagnostic import Claim, Diagnostic, Fix, Severity
from objdsl.lint.places import divided, entry, marked
from objdsl.lint.rule import Rule, rule


@rule("std-normalisation", "OBJ201", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for departure in facts.departing(Reason.GROUP_DISPERSION):
        estimator, factor = departure.estimator, departure.factor
        assert estimator is not None
        assert factor is not None
        biased, written = departure.claim is Claim.DIRECTION, has_deviation(factor.base)
        group = facts.objective.sampling.group
        small = not biased and written and group is not None and group <= 3
        yield rule.finding(
            f"rewards are divided by the {'standard deviation' if written else 'dispersion'} "
            "of their group",
            factor.origin.span,
            severity=Severity.NOTE if small else None,
            claim=departure.claim,
            under="includes the response's own reward",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            consequence="prompts that are nearly always or nearly never solved weigh most"
            if not small
            else "in a group of 2 or 3 the deviation of rewards of 0 and 1 is the same for "
            "every group whose rewards differ",
            gradient=_gradient(biased),
            help="drop it, or divide by the standard deviation of the step (std[p,i])",
            fine_if="hard and easy prompts should count more",
            fix=_fix(facts, factor),
        )


def _gradient(biased: bool) -> str:
    if not biased:
        return "right for each prompt (rewards are 0 or 1), which is weighted by how hard it is"
    return (
        "biased by the response's reward in the divisor; prompts are weighted by how hard they are"
    )


def _fix(facts: Facts, factor: Factor) -> Fix | None:
    edit = divided(facts, factor.origin)
    return Fix("drop the divisor", (edit,)) if edit else None
