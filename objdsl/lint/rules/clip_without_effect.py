"""The clipped value is a constant: the bounds have no effect.

**What.** `clip(pi / sg(pi), 0.8, 1.2)`, alone or in a surrogate: the ratio is always 1.

**Why.** `pi / sg(pi)` has the gradient of `log(pi)` and the value 1. It does not measure the
distance to the policy that sampled, so the clip never takes effect, and nothing keeps the policy
near the rollout.

**Fine if** never; without the clip the objective is the same.

**Example.**

    maximize mean[p,i] sum[t] surrogate(pi / sg(pi), A, 0.8, 1.2)

**Instead.** `pi / old`.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.shapes import is_constant, match_bounded
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("clip-without-effect", "OBJ420", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    moves, expand = n.holding(_learns, facts.objective.goal), facts.far.expand
    seen: set[n.Expr] = set()
    for node in facts.passing:
        clip = match_bounded(node, moves.__contains__, expand)
        if clip is None or clip.x in seen or clip.x not in moves or not is_constant(clip.x, expand):
            continue
        seen |= {clip.x, *clip.through}
        yield rule.finding(
            f"this is always {expand(clip.x).number:g}: the bounds have no effect",
            clip.x.span or node.span or facts.objective.goal.span,
            under="never reaches a bound",
            consequence="nothing keeps the policy near the one that sampled",
            help="take the ratio to `old`",
        )


def _learns(node: n.Expr) -> bool:
    return isinstance(node, n.LogProb) and node.trained
