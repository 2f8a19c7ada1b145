"""The gradient of a geometric-mean ratio is divided by the length of the response.

**What.** `geo(pi / old)`, or `exp(mean[t] log(pi / old))`, with a gradient, and no factor `|y|` to
compensate.

**Why.** `d geo(r) / d log pi_t = geo(r) / |y|`. On policy the ratio is 1 and the weight of a token
is `A / |y|`, exactly that of GRPO with `mean[t]`. The value does not show it, but the gradient
does.

**Fine if** you reproduce a paper, or all responses have about the same length.

**Example.**

    s = geo(pi / old)
    maximize mean[p,i] surrogate(s, A, 1 - eps, 1 + eps)

**Instead.** Multiply by the length: then each token has the weight that it has in the policy
gradient.

    maximize mean[p,i] (|y| * surrogate(s, A, 1 - eps, 1 + eps))

**Papers.** GSPO, arXiv:2507.18071; LUSPO and Dr. GSPO multiply by the length.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Length
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("geometric-ratio-length", "OBJ102", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.GEOMETRIC):
        yield rule.finding(
            "the gradient of this ratio divides by the length of the response",
            factor.origin.span,
            under="its derivative by log(pi) contains 1 / |y|",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, Length()),
            consequence="on policy a token has the same weight as under `mean[t]`: a right "
            "answer of 200 tokens weighs 10 times as much per token as one of 2000",
            value="the clipped surrogate of the sequence ratio",
            gradient="not that of the expected reward; larger groups do not help",
            help="multiply the surrogate by |y|",
            fine_if="you reproduce a paper that does so",
        )
