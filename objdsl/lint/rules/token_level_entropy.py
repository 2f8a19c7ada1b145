"""An entropy token by token: the effect of a token on later states does not count.

**What.** `sum[t] entropy` or any other function of the whole next-token distribution of `pi`
alone, with its gradient.

**Why.** The gradient of `sum[t] H(pi(. | y_<t))`, as it is computed, treats the visited states as
fixed. That of the entropy of responses, `-E[log pi(y)]`, has one more term: a token also gets
credit for the entropy that comes after it. On small random policies the cosine between the two is
0.9 on most, and negative on some: pushing every token towards the uniform distribution makes
responses end sooner or later, and so less or more random.

**Fine if** the next-token distributions are what should stay broad.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) + 0.01 * entropy)

**Instead.** For responses: `-log(pi)` in the reward, as a reward-to-go:
`reward - 0.01 * sum[s >= t] log(old)`.

**Papers.** Maximum entropy reinforcement learning, arXiv:1702.08165, includes it in the return.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("token-level-entropy", "OBJ314", Severity.NOTE, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for leaf, weight in facts.weights.items():
        if isinstance(leaf, n.LogDist) and _of_entropy(weight, leaf, facts.on_policy):
            yield rule.finding(
                "the entropy of the next token, state by state: later states are treated as fixed",
                reading(facts, leaf.policy, live=True, kinds=(n.LogDist,)),
                under="each state counts its own entropy alone",
                gradient="that of the entropy of next tokens, not of responses",
                help="for responses, use -log(old) in the reward, `sum[s >= t]`",
                fine_if="the next-token distributions are what should stay broad",
            )


def _of_entropy(weight: n.Expr, leaf: n.LogDist, on: Expand) -> bool:
    """Whether `pi[v] log pi[v]` is a part of a weight."""
    try:
        terms = on(weight).terms
    except TooLargeError:
        return False
    entropy = {(leaf, 1.0), (n.Unary("exp", leaf), 1.0)}
    return any(entropy <= factors for factors in terms)
