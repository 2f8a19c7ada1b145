"""An importance weight is truncated at 1, its value on policy: only those below 1 count.

**What.** `min(old / mu, 1)` in front of all rewards, or any other upper bound that is not above 1.

**Why.** Truncation trades variance for bias, and the bias is small as long as only outliers are
truncated. At 1 every other token is: weights below 1 stay, those above all become 1, so half of
the correction is already lost to first order. At a noise of 0.3 in the logits the residual of a
token's weight is 0.056 with the bound 1, the same as without any weight, and 0.040 with the bound
2, the same as without a bound; that of a response's weight is 0.022 with the bound 1, and 0 with
the bound 2.

**Fine if** a small weight matters more than an unbiased one, as in V-trace.

**Example.**

    maximize mean[p,i] sum[t] (sg(min(old / mu, 1)) * pi / old * A)

**Instead.** `min(old / mu, 2)`.

**Papers.** IMPALA (V-trace), arXiv:1802.01561; TIS, https://fengyao.notion.site/off-policy-rl.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import OfTokens
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor, Kind
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("truncated-at-one", "OBJ412", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.near:
        factor = _truncated(estimator)
        if factor is not None:
            yield rule.finding(
                "an importance weight is truncated at its value on policy",
                factor.origin.span,
                under="every other weight is truncated",
                gradient="biased to first order: all weights above 1 become 1",
                help="truncate only outliers, at 2",
                fine_if="a small weight matters more than an unbiased one",
            )


def _truncated(estimator: Estimator) -> Factor | None:
    """A factor of all rewards of the response itself that is a weight with an upper bound of at
    most 1."""
    terms = estimator.of(Kind.SIGNAL)
    everywhere = [
        factor
        for factor in (terms[0].factors if terms else ())
        if all(factor.base in [other.base for other in term.factors] for term in terms)
    ]
    return next((factor for factor in everywhere if _bound(factor.base) <= 1), None)


def _bound(base: n.Expr) -> float:
    """The number that a ratio is held below; infinity if there is none."""
    match base:
        case (
            n.Binary("min", x, n.Const(c))
            | n.Binary("min", n.Const(c), x)
            | n.Clip(x, _, n.Const(c))
        ):
            if any(isinstance(node, OfTokens) for node in n.topological(x)):
                return c
    return float("inf")
