"""Importance weights are divided by their own mean.

**What.** `w / mean[i] w` or `w / mean[p,i,t] w`, where w is a ratio of policies.

**Why.** The mean includes the response's own weight, so the quotient is no longer an importance
weight: off policy the expectation is biased by the order of one over the number of responses in
the mean. With a plain `reward` and groups of 2 the bias is 0.11 of the gradient at a noise of 0.3
in the logits and 0.24 at 0.6, half of that with groups of 4; with a mean over a single response it
does not shrink at all. On policy all weights are 1, and nothing is visible.

**Fine if** the mean is over many responses: the gradient then has the same scale in every step.

**Example.**

    w = prod[t] (pi / mu)
    maximize mean[p,i] (sg(w / mean[i] w) * A * sum[t] log(pi))

**Instead.** Truncate the weights, `min(w, 2)`, or mask outliers; dividing by the mean of the
others, `mean[j != i] w`, causes no bias.

**Papers.** verl's `rollout_is_batch_normalize`.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.algebra.symbols import OfTokens
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor, Kind
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule


@rule("normalised-weights", "OBJ413", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.near:
        factor = _mean_weight(estimator, facts.on_policy)
        if factor is None:
            continue
        batch = factor.depends.batch
        pooled = factor.depends.pooled
        yield rule.finding(
            "importance weights are divided by their own mean",
            factor.origin.span,
            severity=Severity.NOTE if batch else None,
            under="includes the response's own weight",
            labels=entry(facts),
            gradient="biased off policy, by the order of 1 / "
            + ("(responses per step)" if batch else "(group size)" if pooled else "length"),
            help="truncate the weights, or divide by the mean of the others: `j != i`",
            fine_if="the mean is over many responses",
        )


def _mean_weight(estimator: Estimator, on: Expand) -> Factor | None:
    """A divisor that is a sum of ratios, and a number of elements on policy."""
    divisors = (
        factor
        for term in estimator.of(Kind.SIGNAL)
        for factor in term.factors
        if factor.exponent < 0 and isinstance(factor.base, n.Reduce) and factor.depends.on_response
    )
    return next((f for f in divisors if _reads_policy(f.base) and not _varies(f.base, on)), None)


def _varies(base: n.Expr, on: Expand) -> bool:
    """Whether a value changes with the policies where all of them are equal."""
    try:
        return any(_reads_policy(factor) for factors in on(base).terms for factor, _ in factors)
    except TooLargeError:
        return True


def _reads_policy(x: n.Expr) -> bool:
    return any(isinstance(node, OfTokens) for node in n.topological(x))
