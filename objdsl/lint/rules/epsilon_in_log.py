"""A small number is added to a probability, to keep a logarithm or a quotient finite.

**What.** `log(pi + 1e-8)`, `pi / (old + 1e-8)`, `log(1 - pi + 1e-8)` and their like.

**Why.** Probabilities live in log space here: `log(pi)` and `pi / old` are exact, whatever the
size of `pi`, and there is nothing to be kept from 0. What the number does do is to bend the
gradient: that of `log(pi + c)` is `pi / (pi + c)` times that of `log(pi)`, so that a token of
probability c is pushed at half weight and one of `c / 100` at a hundredth of it. Those are the
tokens that exploration is about. Beside a 1, on the other hand, it is lost: in float32 `1 + 1e-8`
is 1.

**Fine if** it is far below the smallest probability that is sampled; then it may go just as well.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi + 1e-8))

**Instead.** `log(pi)`, `pi / old`; for `1 - pi`, which can be 0, `log(1 - min(pi, 0.999))`.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.departures import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import frozen
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.rule import Rule, rule


@rule("epsilon-in-log", "OBJ616", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for epsilon in facts.epsilons:
        x, beside_one = epsilon.node, epsilon.beside_one
        if x.span is None:
            continue
        yield rule.finding(
            "a small number is added to a probability",
            x.span,
            claim=_claim(x, facts),
            under="is exact without it" if not beside_one else "is 1 - pi, and a number",
            gradient=f"p / (p + {epsilon.size:g}) of what it would be, for a token of probability p"
            if not beside_one
            else "bounded by it, where float32 can tell it from nothing",
            help="leave it away: probabilities are kept as logarithms"
            if not beside_one
            else "bound pi itself: min(pi, 0.999)",
            fine_if="it is far below every probability that is sampled",
            fix=None if beside_one else _without(x),
        )


def _claim(x: n.Expr, facts: Facts) -> Claim:
    """What the small number changes: a penalty, the direction, or what float32 makes of it."""
    held = set(frozen(facts.objective))
    if any(
        isinstance(node, n.LogProb | n.LogDist) and node.policy in held for node in n.topological(x)
    ):
        return Claim.PENALTY
    return Claim.DIRECTION if facts.departing(Reason.LIVE) else Claim.NUMERICS


def _without(x: n.Expr) -> Fix | None:
    match x:
        case n.Binary("add", n.Const() | n.Param(), kept) | n.Binary(
            "add", kept, n.Const() | n.Param()
        ):
            if x.span is not None and kept.span is not None:
                return Fix("leave it away", (Edit(x.span, kept.span.text),))
    return None
