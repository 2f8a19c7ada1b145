"""A product over a response's tokens is computed outside log space.

**What.** `prod[t] pi` that is not divided by another product, so that the probability of a
response remains; or `prod[t]` of something that is not kept as a logarithm,
`prod[t] clip(pi / old, 0.8, 1.2)`.

**Why.** Below `e^-103` float32 has only 0: the probability of a response of 100 tokens at `1 / e`
each is 0, and so is its gradient. What is divided by such a probability is infinite. `prod[t] (pi /
old)`, `prod[t] pi / prod[t] old`, and quotients by sums and means of probabilities, `prod[t] pi /
mean[i] prod[t] old`, are kept as logarithms; a sum by itself is a plain number again.

**Fine if** responses have a few tokens, or all factors are near 1.

**Example.**

    maximize mean[p,i] (reward * prod[t] pi)

**Instead.** `log(pi)` under a sum, `geo(pi)`, a ratio to the sampler;
`exp(sum[t] clip(log(pi / old), -0.2, 0.2))`.

**Papers.** GEPO, arXiv:2508.17850, has a mean of probabilities of responses in a denominator; its
code uses the geometric mean of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.ir.nodes import Expr, Reduce
from objdsl.lint.rule import Rule, rule


@rule("product-outside-logs", "OBJ615", Severity.ERROR, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for node in _values(facts.objective.goal):
        bare = facts.extremes.is_response(node)
        if bare or (isinstance(node, Reduce) and node.op == "prod" and "t" in node.over):
            yield rule.finding(
                "the probability of a response is 0 in float32"
                if bare
                else "this product over tokens is not kept as a logarithm",
                node.span or facts.objective.goal.span,
                certainty=Certainty.PROVEN if bare else Certainty.LIKELY,
                under="0 after about 100 tokens"
                if bare
                else "0 or infinite, unless all are near 1",
                gradient="0, or 0 / 0",
                help="use log(...), geo(...), or a ratio to the policy that sampled"
                if bare
                else "use exp(sum[t] log(...)), with bounds inside the sum",
                fine_if="responses have a few tokens, or all factors are near 1",
            )


def _values(goal: Expr) -> list[Expr]:
    """The numbers of a formula, without those that only a mask asks for."""
    values: dict[Expr, None] = {}
    stack = [goal]
    while stack:
        node = stack.pop()
        if not node.boolean and node not in values:
            values[node] = None
            stack += node.children
    return list(values)
