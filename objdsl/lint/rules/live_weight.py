"""A weight in front of log(pi) carries a gradient of its own.

**What.** `pi / old * A * log(pi)`, without `sg` around the ratio; or any product in which the
derivative leaves `log(pi)` itself beside a reward.

**Why.** `d (r log pi) / d log pi = r (1 + log pi)`: the weight of the reward has the factor `1 +
log pi`, which is negative for every token of probability below 1 / e. Unlikely tokens of right
answers are pushed down. The cosine to the true gradient is -0.4 on small random policies.

**Fine if** never.

**Example.**

    maximize mean[p,i] sum[t] (pi / old * A * log(pi))

**Instead.** `sg(pi / old) * A * log(pi)`, or the ratio alone, `pi / old * A`, which has the same
gradient.

**Papers.** CISPO, arXiv:2506.13585, eq. 4, has the stop.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.estimator import Kind
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.ir.nodes import Binary, Expr
from objdsl.lint.places import with_gradient
from objdsl.lint.rule import Rule, rule


@rule("live-weight", "OBJ501", Severity.ERROR)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        rewarded = estimator.of(Kind.SIGNAL)
        if any(factor.base == estimator.leaf for term in rewarded for factor in term.factors):
            product = _product(facts.objective.goal, estimator.leaf)
            yield rule.finding(
                "a weight in front of log(pi) carries a gradient of its own",
                product.span if product else facts.objective.goal.span,
                under="two factors of this product depend on pi",
                weight=f"w = {facts.written(estimator.weight)}",
                consequence="tokens of probability below 1 / e are pushed the wrong way",
                gradient="(1 + log pi) times what was meant",
                help="put sg(...) around the weight, or leave log(pi) away",
            )


def _product(goal: Expr, leaf: Expr) -> Expr | None:
    """A product of two live factors; one that holds log(pi) as it is, if there is such a one."""
    products = [
        node
        for node in reversed(with_gradient(goal))
        if isinstance(node, Binary) and node.op == "mul" and node.a.live and node.b.live
    ]
    plain = [node for node in products if leaf in (node.a, node.b)]
    return next(iter(plain + products), None)
