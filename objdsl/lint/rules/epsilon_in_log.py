"""A small number is added to a probability inside a logarithm or a quotient.

**What.** `log(pi + 1e-8)`, `pi / (old + 1e-8)`, `log(1 - pi + 1e-8)` and the like.

**Why.** Probabilities are kept as logarithms here: `log(pi)` and `pi / old` are exact however
small `pi` is, so there is no 0 to guard against. What the number does do is bias the gradient:
that of `log(pi + c)` is `pi / (pi + c)` times that of `log(pi)`, so a token of probability c is
pushed with half the weight, and one of probability `c / 100` with a hundredth. Those are the
tokens that exploration is about. Next to a 1, on the other hand, the number is lost: in float32
`1 + 1e-8` is 1.

**Fine if** it is far below the smallest probability that is sampled; but then it can be dropped.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi + 1e-8))

**Instead.** `log(pi)`, `pi / old`; for `1 - pi`, which can be 0, `log(1 - min(pi, 0.999))`.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.policies import frozen
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
            under="exact without it" if not beside_one else "1 - pi plus a small number",
            gradient=f"for a token of probability p, p / (p + {epsilon.size:g}) of what it should "
            "be"
            if not beside_one
            else "bounded by it, where float32 does not round it away",
            help="drop it: probabilities are kept as logarithms"
            if not beside_one
            else "bound pi itself: min(pi, 0.999)",
            fine_if="it is far below every probability that is sampled",
            fix=None if beside_one else _without(x),
        )


def _claim(x: n.Expr, facts: Facts) -> Claim:
    """The claim that the small number affects: a penalty, the direction, or the range of
    float32."""
    references = set(frozen(facts.objective))
    if any(
        isinstance(node, n.LogProb | n.LogDist) and node.policy in references
        for node in n.topological(x)
    ):
        return Claim.PENALTY
    return Claim.DIRECTION if facts.departing(Reason.LIVE) else Claim.NUMERICS


def _without(x: n.Expr) -> Fix | None:
    match x:
        case n.Binary("add", n.Const() | n.Param(), kept) | n.Binary(
            "add", kept, n.Const() | n.Param()
        ):
            if x.span is not None and kept.span is not None:
                return Fix("drop it", (Edit(x.span, kept.span.text),))
    return None
