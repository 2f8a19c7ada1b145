"""Responses or tokens are left out depending on what they are.

**What.** A mask beside the reward that depends on the response itself: truncated responses,
negative advantages, tokens of low probability.

**Why.** Leaving out a response is exactly the same as giving it a reward equal to the baseline,
where the mask is a function of the response. In general that is a different objective. A mask that
depends on the ratio of two policies lets everything through on policy, and is not reported.

**Fine if** that objective is meant: an answer that was cut off is neither right nor wrong.

**Example.**

    maximize mean[p,i] sum[t] (0 if truncated else A * log(pi))

**Instead.** Express it in the reward, where it is visible.

**Papers.** DAPO, arXiv:2503.14476; 80/20, arXiv:2506.01939; Clip-Cov, arXiv:2505.22617.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.values.dependence import is_reward
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import marked
from objdsl.lint.rule import Rule, rule


@rule("outcome-mask", "OBJ601", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    goal = facts.objective.goal
    left_out = list(facts.factors(Reason.MASK))
    masks = [mask for _, mask in left_out if not _bounds(mask.origin, goal)]
    if masks:
        estimator = left_out[0][0]
        read = sorted({str(x) for mask in masks for x in mask.depends.reads})
        yield rule.finding(
            "the response itself decides whether it is left out",
            masks[0].origin.span,
            under="a mask of " + ", ".join(read),
            weight=marked(facts, estimator.weight, masks[0].origin),
            gradient="that of a different objective, where what is left out is rewarded with the "
            "baseline",
            help="express it in the reward",
            fine_if="that objective is meant",
        )


def _bounds(mask: n.Expr, goal: n.Expr) -> bool:
    """Whether a mask comes from `max(r * A, c * A)`, a bound with the reward in it, which the rule
    about dual clips reports."""
    for node in n.topological(goal):
        match node:
            case n.Binary("min" | "max", a, b) if a.live != b.live and mask.children == (a, b):
                bound = n.topological(b if a.live else a)
                return any(is_reward(node) for node in bound)
    return False
