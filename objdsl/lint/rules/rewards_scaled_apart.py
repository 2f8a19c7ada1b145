"""Each reward is divided by its own standard deviation before they are added.

**What.** `(reward - mean[i] reward) / std[i] reward + (style - mean[i] style) / std[i] style`.

**Why.** Each reward is brought to the same size in every group, whatever it was worth: one that
differs slightly between the responses of a group counts as much there as one that separates right
from wrong. The relative weights of the rewards change from group to group, and no number in the
formula states them.

**Fine if** that is the point: in a sum of rewards that is divided once, the largest one dominates.

**Example.**

    A = (reward - mean[i] reward) / std[i] reward + (style - mean[i] style) / std[i] style

**Instead.** Weight the rewards by numbers, `reward + 0.1 * style`, and centre the sum.

**Papers.** GDPO, arXiv:2601.05242, does so on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.symbols import Ratio
from objdsl.analysis.claims.shapes import has_deviation
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.lint.rule import Rule, rule


@rule("rewards-scaled-apart", "OBJ211", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        apart = [f for f in estimator.mixing_factors if f.exponent < 0 and has_deviation(f.base)]
        divisors = sorted(apart, key=_place) or _divisors(estimator)
        others = [f for f in estimator.mixing_factors if f not in apart]
        if others and not divisors:
            yield rule.finding(
                "rewards are weighted separately",
                others[0].origin.span,
                under="does not weight all of them equally",
                consequence="their relative weights change from prompt to prompt",
                gradient="that of a sum of rewards whose weights are not constant",
                help="weight the rewards by numbers",
                fine_if="that is the purpose of the weight",
            )
        if len(divisors) == 1:
            yield rule.finding(
                "one reward is divided by a standard deviation, and another is not",
                divisors[0].origin.span,
                under="does not divide all of them",
                consequence="their relative weights change from group to group",
                gradient="that of a sum of rewards whose weights are random",
                help="weight the rewards by numbers, and centre their sum",
                fine_if="no reward should dominate the others",
            )
        elif divisors:
            first, second = divisors[:2]
            span = first.origin.span
            yield rule.finding(
                "each reward is divided by its own standard deviation",
                second.origin.span,
                under="a second divisor",
                labels=(Label(span, "one divisor"),) if span else (),
                consequence="their relative weights change from group to group",
                gradient="that of a sum of rewards whose weights are random",
                help="weight the rewards by numbers, and centre their sum",
                fine_if="no reward should dominate the others",
            )


def _divisors(estimator: Estimator) -> list[Factor]:
    """Deviations that divide some terms, each of other data, in the order of the text."""
    by_data: dict[frozenset[str | Ratio], Factor] = {}
    for term in estimator.terms:
        below = (f for f in term.factors if f.exponent < 0 and not f.depends.batch)
        divisors = [
            f for f in below if has_deviation(f.base)
        ]  # of the step it is one for all rewards
        if len(divisors) == 1 and divisors[0].origin.span is not None:
            by_data.setdefault(divisors[0].depends.reads, divisors[0])
    divisors = sorted(by_data.values(), key=_place)
    return divisors if len(divisors) > 1 else []


def _place(factor: Factor) -> int:
    return factor.origin.span.start if factor.origin.span else 0
