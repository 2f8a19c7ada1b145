"""The margin of a preference has no beta, or label smoothing cancels its labels.

**What.** `logsigmoid(margin)` of log-ratios without a factor; or
`(1 - s) * logsigmoid(z) + s * logsigmoid(-z)` with s of one half or more.

**Why.** `beta` is the strength of the KL penalty in the problem that DPO solves, and a margin is a
sum over all tokens of two responses. With beta 1 the weight of a pair is down to a hundredth when
the sums differ by 5, which is 0.01 for each of 500 tokens; with the paper's 0.1 they may differ by
50. With smoothed labels the optimal margin is `log((1 - s) / s)`: 0 for s = 1/2, where nothing is
learned from the preferences, and negative beyond, where the rejected response is made more likely.
With plain numbers, `0.4 * logsigmoid(z) + 0.6 * logsigmoid(-z)`, the finding is a note unless a
column `chosen` shows which of the two terms is the label: otherwise the minus sign alone decides.

**Fine if** a beta of 1 is intended: write `param beta = 1`.

**Example.**

    h = sum[t] log(pi / ref)
    maximize mean[p] logsigmoid(mean[i | chosen] h - mean[i | not chosen] h)

**Instead.** `beta * (...)`, with 0.01 to 0.5; s below 1/2.

**Papers.** DPO, arXiv:2305.18290, eq. 7; cDPO, https://ericmitchell.ai/cdpo.pdf; robust DPO,
arXiv:2403.00409.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError
from objdsl.analysis.claims.shapes import is_mask
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import Kind, Link, Multiplier, prefers
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule


@rule("preference-scale", "OBJ710", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    margins = [link for link in facts.links if link.kind is Kind.LOGISTIC and link.is_margin]
    for link in margins:
        if _unscaled(link):
            yield rule.finding(
                "this margin has no beta",
                link.score.span or link.node.span,
                severity=Severity.WARNING,
                under="log-ratios without a factor: beta is 1",
                labels=entry(facts),
                consequence="once the sums differ by 5, a pair has a hundredth of its initial "
                "weight",
                gradient="that of DPO with a KL penalty of strength 1",
                help="use beta * (...), with 0.01 to 0.5; write `param beta = 1` if 1 is intended",
                fine_if="a beta of 1 is intended",
            )
            break
    for link in margins:
        turned = _against(link, margins, facts)
        if turned is not None:
            yield rule.finding(
                "label smoothing cancels the label of this preference",
                turned.node.span,
                under="weighs as much as the label, or more",
                consequence="the optimal margin is 0, or favours the rejected response",
                gradient="nothing is learned from the preferences, or the opposite of them",
                help="smooth by less than one half",
            )
            return
    for label, turned in permutations(margins, 2):
        known = prefers(label.score, label.expand)
        written = turned.score == n.Unary("neg", label.score)
        if known < 0 or not (written or (known > 0 and _turned(label, turned))):
            continue
        weights = Multiplier(facts.objective.goal, label.expand)
        if weights(turned) > weights(label) > 0:
            yield rule.finding(
                "the negated margin weighs more than the margin",
                turned.node.span,
                certainty=Certainty.PROVEN if known else Certainty.LIKELY,
                under="weighs more than the label",
                consequence="the optimal margin favours the response that was not preferred"
                if known
                else "the optimal margin favours the response that is written as the worse one",
                gradient="that of the opposite preference, weakened",
                help="less than one half for the turned margin",
                fine_if="" if known else "the margin is written from the rejected response's side",
            )
            return


def _unscaled(link: Link) -> bool:
    """Whether every response's ratio occurs once in the margin, divided by sizes only."""
    if any(isinstance(node, n.Param) for node in n.topological(*link.derivatives.values())):
        return False
    values = [abs(value) for slope in link.slopes.values() for value in _values(slope)]
    return bool(values) and set(values) <= {0.0, 1.0}


def _values(slope: Sum) -> Iterator[float]:
    """The possible values of a slope apart from the sizes that divide it, whichever masks hold."""
    terms = [([base for base, e in factors if e > 0], c) for factors, c in slope.terms.items()]
    masks = sorted({base for above, _ in terms for base in above}, key=lambda base: base.key)
    if len(masks) > 4 or not all(is_mask(base) for base in masks):
        yield math.nan
        return
    for truth in product((False, True), repeat=len(masks)):
        holds = dict(zip(masks, truth, strict=True))
        yield sum(c for above, c in terms if all(holds[base] for base in above))


def _against(link: Link, margins: list[Link], facts: Facts) -> Link | None:
    """The link of the reversed margin, if it has the same weight as this one, as for smoothed
    labels."""
    for other in margins:
        if not _turned(link, other):
            continue
        weights = Multiplier(facts.objective.goal, link.expand)
        here, there = weights(link), weights(other)
        for name in sorted(weights.reads(link, other)):
            none = weights.at(name, 0.0)
            if none(other) == 0 < none(link) and not here > there:
                return other
        if not weights.reads(link, other) and here == there > 0:
            return other
    return None


def _turned(link: Link, other: Link) -> bool:
    try:
        return not (link.expand(link.score) + link.expand(other.score)).terms
    except TooLargeError:
        return False
