"""Off policy, a response's reward is not weighted by the ratio of the response.

**What.** The token's own ratio, the geometric mean of the ratios, or their product up to the
token, in place of the product over the response; a function of a ratio, such as a sigmoid, that
moves faster or slower than the ratio, or not at all. The weight is read close to on policy, to
first order in `log(pi / old)`.

**Why.** The exact weight is the product over all tokens, `1 + sum[t] log(pi / mu)` to first order.
With the token's own ratio the gradient is off by the sum over all *other* tokens: by the order of
the drift times the length. This is what makes the variance bearable: that of the exact product
grows exponentially with the length. The product up to the token omits only the later tokens, and
at the end of a response has the variance of the exact one.

**Fine if** the policies stay close: this is what PPO is.

**Example.**

    maximize mean[p,i,t] surrogate(pi / old, A, 1 - eps, 1 + eps)

**Instead.** Fewer updates per rollout; or the exact product, truncated, for short responses.

**Papers.** MiniRL, arXiv:2512.01374, derives it as a first-order approximation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import Order, Powers, Reach
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule

# For each reach: the message, the label, and the missing part of the exact weight.
_SAID = {
    Reach.TOKEN: (
        "off policy, a token is weighted by its own ratio, not the response's",
        "the ratio of one token",
        "sum over other tokens of log(pi / old)",
    ),
    Reach.PREFIX: (
        "off policy, a token is weighted by the ratio of the response up to it",
        "the ratio of the tokens up to this one",
        "sum over later tokens of log(pi / old)",
    ),
    Reach.BEFORE: (
        "off policy, a token is weighted by the ratio of the tokens before it",
        "the ratio of the tokens before",
        "sum over this and later tokens of log(pi / old)",
    ),
    Reach.MEAN: (
        "off policy, a token is weighted by the geometric mean of the ratios, not their product",
        "the root of the response's ratio",
        "(1 - 1 / |y|) sum over tokens of log(pi / old)",
    ),
}
_ALL = "sum over tokens of log(pi / old)"


@rule("ratio-of-one-token", "OBJ403", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order = facts.first_order
    if order is None or not facts.corrects:
        return
    for branch in order.branches:
        if branch.drift == {Reach.SEQUENCE: 1.0}:
            continue
        message, under, left_out = _texts(branch.drift)
        yield rule.finding(
            message,
            reading(facts, next(iter(facts.policy_weights)).policy, rewarded=True),
            under=under,
            value=_where(facts, branch),
            gradient=f"off by the order of the drift: E[A ({left_out}) grad log(pi)]",
            help="few updates per rollout keep it small",
            fine_if="the policies stay close",
        )


def _texts(drift: Powers) -> tuple[str, str, str]:
    if not drift:
        return (
            "off policy, a token has its on-policy weight, not the response's ratio",
            "the weight contains no ratio",
            _ALL,
        )
    if len(drift) == 1:
        ((reach, power),) = drift.items()
        if power == 1 and reach in _SAID:
            return _SAID[reach]
        if not math.isnan(power):
            return (
                f"off policy, a token is weighted by {reach.value} to the power {power:.3g}",
                "to first order in log(pi / old)",
                f"{_ALL}, minus what the weight contains",
            )
    return (
        "off policy, a token has a weight other than the response's ratio",
        "; ".join(reach.value for reach in drift),
        f"{_ALL}, minus what the weight contains",
    )


def _where(facts: Facts, branch: Order) -> str:
    """The branch that a finding is about, where there are several."""
    masks = [
        facts.written(m) if holds else f"not {facts.written(m)}"
        for m, holds in branch.holds.items()
    ]
    return f"where {' and '.join(masks)}" if masks else ""
