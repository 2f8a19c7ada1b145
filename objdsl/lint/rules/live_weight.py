"""A weight in front of log(pi) carries a gradient of its own.

**What.** `pi / old * A * log(pi)`, without `sg` around the ratio; or any product whose derivative
still contains `log(pi)` itself beside a reward.

**Why.** `d (r log pi) / d log pi = r (1 + log pi)`: the weight of the reward has the factor
`1 + log pi`, which is negative for every token of probability below 1 / e. Unlikely tokens of
right answers are pushed down. The cosine to the true gradient is -0.4 on small random policies.

**Fine if** never.

**Example.**

    maximize mean[p,i] sum[t] (pi / old * A * log(pi))

**Instead.** `sg(pi / old) * A * log(pi)`, or the ratio alone, `pi / old * A`, which has the same
gradient.

**Papers.** CISPO, arXiv:2506.13585, eq. 4, stops the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.claims.shapes import is_score, product_with_gradients
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.terms import Kind
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("live-weight", "OBJ501", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        beside = {factor.base for term in estimator.of(Kind.SIGNAL) for factor in term.factors}
        beside |= {f.base for where, f in facts.factors(Reason.SCORE) if where is estimator}
        scores = [base for base in beside if is_score(base, estimator.leaf)]
        product = product_with_gradients(facts, estimator.leaf) if scores else None
        if product is not None:  # behind sg it is a weight, and response-weight's
            token = estimator.leaf in scores
            yield rule.finding(
                "a weight in front of log(pi) carries a gradient of its own",
                product.span or facts.objective.goal.span,
                under="two factors of this product depend on pi",
                weight=f"w = {facts.written(estimator.weight)}",
                consequence=("tokens" if token else "responses")
                + " of probability below 1 / e are pushed the wrong way",
                gradient="(1 + log pi) times the intended one"
                if token
                else "the intended one, plus log pi of the response times the weight's own "
                "gradient",
                help="put sg(...) around the weight, or drop log(pi)",
            )
