"""A reward is regressed on the log-ratio of each token, not on that of the response.

**What.** `(tau * log(pi / old) - A)^2` token by token, or what it multiplies out to:
`A * log(pi) - tau / 2 * log(pi / old)^2` summed over tokens.

**Why.** The optimal policy of `E[R] - tau KL(pi || old)` has `tau log(pi / old) = R - V` for whole
responses, and a squared residual has its minimum there. Token by token the minimum is where *each*
token's log-ratio is `A / tau`, and so the response's is `|y| A / tau`: the longer the response,
the further it goes. A token's penalty does not know how far the other tokens have gone.

**Fine if** a penalty on each token is intended: it is then k2 to the old policy.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - tau / 2 * log(pi / old)^2)

**Instead.** `A * logr - tau / 2 * logr^2` with `logr = sum[t] log(pi / old)`.

**Papers.** Kimi k1.5, arXiv:2501.12599, eq. 3; OAPL, arXiv:2602.19362. ROLL squares token by
token.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.links import Kind, Link
from objdsl.analysis.values.dependence import depends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import LogProb
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("token-regression", "OBJ707", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    squares = [x for x in facts.links if x.kind is Kind.SQUARE and "t" in x.score.indices]
    residual = next((x for x in squares if depends(x.score).rewards), None)
    order = facts.first_order
    leashed = (
        order is not None
        and not any(branch.drift for branch in order.branches)
        and any(_leash(x, facts.near_policy) for x in facts.rewarded)
    )
    if residual is None and not leashed:
        return
    yield rule.finding(
        "the reward is regressed on each token's log-ratio, not on the response's",
        _span(residual, squares, facts),
        under="the square of one token",
        consequence="where each token's residual is 0, the response's log-ratio is |y| times "
        "too large",
        gradient="a token is limited by its own log-ratio, not by that of its response",
        help="square the sum over the tokens",
        fine_if="a penalty on each token is intended",
    )


def _span(residual: Link | None, squares: list[Link], facts: Facts) -> Span | None:
    for link in [residual, *squares]:
        if link is not None and link.node.span is not None:
            return link.node.span
    return reading(facts, facts.rewarded[0].leaf.policy, live=True)


def _leash(estimator: Estimator, near: Expand) -> bool:
    """Whether a weight has a negative multiple of its own token's `log(pi / old)` for a term."""
    try:
        terms = near(estimator.weight).terms
    except TooLargeError:
        return False
    samplers = [
        (node, 1.0)
        for node in estimator.objective.nodes
        if isinstance(node, LogProb) and node.policy in ("old", "mu")
    ]
    trained = (estimator.leaf, 1.0)
    return any(
        c < 0
        and trained in factors
        and any(terms.get(factors - {trained} | {x}) == -c for x in samplers)
        for factors, c in terms.items()
    )
