"""An importance weight is inside the clip: its bounds are not around `old`.

**What.** `clip(w * r, 1 - eps, 1 + eps)` with `w = sg(min(old / mu, 2))` and `r = pi / old`.

**Why.** The clip is there to keep pi near the policy that it started from, where r is 1. Applied
to the product w * r it keeps pi near the sampler instead: a token on which the engines disagree by
more than the bounds is clipped before anything is learned, and never gets a gradient in that
direction.

**Fine if** the bounds are meant to be around the sampler; then write `pi / mu`.

**Example.**

    maximize mean[p,i,t] surrogate(sg(min(old / mu, 2)) * pi / old, A, 1 - eps, 1 + eps)

**Instead.** `sg(min(old / mu, 2)) * surrogate(pi / old, A, 1 - eps, 1 + eps)`.

**Papers.** Decoupled PPO, arXiv:2110.00641.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.build import factors
from objdsl.lint.rule import Rule, rule


@rule("weight-inside-clip", "OBJ418", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    for clip in facts.passing:
        weights = [w for w in factors(clip.x)[1] if _weighs(w)] if isinstance(clip, n.Clip) else []
        if weights:
            yield rule.finding(
                "this clip contains an importance weight besides the ratio",
                clip.span,
                under="its bounds are around the sampler",
                consequence="where the engines disagree by more than the bounds, nothing is "
                "learned",
                help="put the weight in front of the surrogate",
                fine_if="the bounds are meant to be around the sampler",
            )


def _weighs(x: n.Expr) -> bool:
    """Whether a factor is made of probabilities, without a gradient."""
    return not x.live and any(isinstance(node, n.LogProb) for node in n.topological(x))
