"""The reference point of a KTO loss is trained, or can be negative.

**What.** `sigmoid(beta * (h - z0))` where `z0`, a statistic of the batch, passes a gradient on to
the policy, or is not bounded below by 0.

**Why.** `z0` estimates `KL(pi || ref)`. If it is trained, it is pushed against every score:
`d (h_i - z0)` is the response's own score minus the average score of the responses that `z0` was
computed from, which become more or less likely for no reason of their own. And a KL is never
negative, but its estimate from a few responses can be; it then moves the point at which the loss
is steepest below the reference.

**Fine if** never, as far as the gradient is concerned; without the bound, if the batch is so large
that the estimate is positive anyway.

**Example.**

    z0 = mean[p,i | mismatched] h
    maximize mean[p,i | not mismatched] sigmoid(beta * (h - z0))

**Instead.** `z0 = sg(max(mean[p,i | mismatched] h, 0))`.

**Papers.** KTO, arXiv:2402.01306, section 4.1: no gradient through `z0`, and `max(0, ...)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import Kind, match_link
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.bounds import bounds
from objdsl.lint.rule import Rule, rule


@rule("reference-point", "OBJ704", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for kind, point in _points(facts.objective.goal):
        if point.live:
            yield rule.finding(
                "the reference point of the scores is trained",
                point.span,
                under="passes a gradient on",
                gradient="each score's, minus the average over the responses that the point is "
                "computed from",
                help="use sg(max(..., 0))",
            )
        elif kind is Kind.SIGMOID and bounds(point)[0] < 0:
            yield rule.finding(
                "the reference point of the scores can be negative",
                point.span,
                severity=Severity.WARNING,
                under="estimates a KL without a lower bound of 0",
                consequence="with few responses the estimate can fall below 0, and the loss is "
                "steepest "
                "where the policy is worse than the reference",
                help="use sg(max(..., 0))",
                fine_if="the batch is so large that the estimate is positive anyway",
            )


def _points(goal: n.Expr) -> Iterator[tuple[Kind, n.Expr]]:
    """The statistics of the policy that a response's own score is compared with, once each."""
    seen: set[n.Expr] = set()
    for node in n.topological(goal):
        link = match_link(node) if node.live else None
        if link is None or link[0] is Kind.SQUARE:
            continue
        parts = _parts(link[1])
        if any(part.live and "i" in part.indices for part in parts):
            for part in parts:
                pooled = "i" not in part.indices and part.current
                if pooled and part not in seen and any(map(_learns, n.topological(part))):
                    seen.add(part)
                    yield link[0], part


def _learns(node: n.Expr) -> bool:
    return isinstance(node, n.LogProb) and node.trained


def _parts(x: n.Expr) -> list[n.Expr]:
    """The terms of a score, without the factors in front."""
    match x:
        case n.Unary("neg", a):
            return _parts(a)
        case n.Binary("add" | "sub", a, b) | n.Where(_, a, b):
            return _parts(a) + _parts(b)
        case n.Binary("mul", a, b) if not (a.current and b.current):
            return _parts(a if a.current else b)
        case n.Binary("div", a, b) if not b.current:
            return _parts(a)
    return [x]
