"""The sign of a preference is wrong: the preferred response becomes less likely.

**What.** The objective decreases with the probability of responses that are marked `chosen`, or
`desirable`, and increases with that of the others; or the loss of a margin, `-logsigmoid(...)`, or
its squared distance from a number, is maximised.

**Why.** The columns `chosen` and `desirable` of a data set are 1 for the preferred response, so a
margin with its two sides exchanged teaches the opposite of the data. And `logsigmoid` levels off
once a pair is told apart: negated, its slope grows with how far the policy has already gone, and
nothing stops it.

**Fine if** the rejected response should become more likely.

**Example.**

    h = beta * sum[t] log(pi / ref)
    maximize mean[p] logsigmoid(mean[i | not chosen] h - mean[i | chosen] h)

**Instead.** `mean[i | chosen] h - mean[i | not chosen] h`; `maximize` of `logsigmoid`, or
`minimize` of its negative.

**Papers.** DPO, arXiv:2305.18290, eq. 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import PREFERRED, Kind, Link, Multiplier, prefers
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import topological
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule


@rule("preference-sign", "OBJ711", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    goal = facts.objective.goal
    margins = [link for link in facts.links if link.is_margin]
    marked = not facts.objective.columns.keys().isdisjoint(PREFERRED)
    if marked and (prefers(goal, facts.on_policy) < 0 or any(map(_aims_below, margins))):
        spans = [link.score.span for link in margins] + [x.span for x in topological(goal)[::-1]]
        yield rule.finding(
            "the sign is wrong: the preferred response becomes less likely",
            next((span for span in spans if span is not None), None),
            under="decreases with the preferred response's probability",
            labels=entry(facts),
            gradient="that of the opposite preference",
            help="exchange the two sides, or change the sign of what is maximised",
            fine_if="the rejected response should become more likely",
        )
    elif margins and all(_climbs(link, Multiplier(goal, link.expand)(link)) for link in margins):
        yield rule.finding(
            "the sign is wrong: the loss of a preference is maximised",
            margins[0].node.span or margins[0].score.span,
            under="should be raised, but is lowered"
            if margins[0].kind is Kind.LOGISTIC
            else "should be lowered, but is raised",
            labels=entry(facts),
            consequence="the further the policy has already gone, the more a pair weighs",
            gradient="increases the loss without limit",
            help="use `maximize` instead of `minimize`, or the other way round; or negate the term",
        )


def _aims_below(link: Link) -> bool:
    """Whether a square draws the margin to a number on the wrong side of 0."""
    if link.kind is not Kind.SQUARE:
        return False
    try:
        aim = -link.expand(link.score).terms.get(frozenset(), 0.0)
    except TooLargeError:
        return False
    return aim * prefers(link.score, link.expand) < 0


def _climbs(link: Link, multiplier: float) -> bool:
    """Whether a loss without an upper end is raised."""
    match link.kind:
        case Kind.SQUARE:
            return multiplier > 0
        case Kind.LOGISTIC:
            return multiplier < 0
    return False
