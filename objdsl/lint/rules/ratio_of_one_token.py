"""Off policy the reward of a response is weighted by the ratio of a part of it.

**What.** The own token's ratio, the geometric mean of the ratios, or their product so far, in
place of the product over the response.

**Why.** The exact weight is the product over all tokens, `1 + sum[t] log(pi / mu)` to first
order. With the own token's ratio the gradient is off by the sum over all *other* tokens: by the
order of the drift times the length. It is what makes the variance bearable: the exact product has
a variance that grows exponentially with the length. The product so far leaves out the later tokens
alone, and has the variance of the exact one at the end of a response.

**Fine if** policies drift little: this is what PPO is.

**Example.**

    maximize mean[p,i,t] surrogate(pi / old, A, 1 - eps, 1 + eps)

**Instead.** Fewer updates for each rollout; or the exact product, truncated, for short responses.

**Papers.** MiniRL, arXiv:2512.01374, derives it as a first-order approximation.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.first_order import Reach
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("ratio-of-one-token", "OBJ403", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order = facts.first_order
    if order is not None and set(order.drift) in ({Reach.TOKEN}, {Reach.PREFIX}):
        token = Reach.TOKEN in order.drift
        left_out = "other" if token else "later"
        yield rule.finding(
            "off policy, a token weighs its own ratio, and not the response's"
            if token
            else "off policy, a token weighs the ratio of the response so far",
            reading(facts, next(iter(facts.policy_weights)).policy, rewarded=True),
            under="the ratio of one token" if token else "the ratio of the tokens so far",
            gradient=f"off by the order of the drift: E[A (sum over {left_out} tokens "
            "of log(pi / old)) grad log(pi)]",
            help="few updates for each rollout keep it small",
            fine_if="policies drift little",
        )
