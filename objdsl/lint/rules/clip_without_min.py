"""A clipped ratio without the minimum: dead where it should pull back.

**What.** `clip(r, 1 - eps, 1 + eps) * A` without `min(r * A, ...)` around it.

**Why.** The clip has no gradient outside of its bounds, on either side. For A > 0 and r < 1 -
eps, where the policy has moved away from a good token, and for A < 0 and r > 1 + eps, nothing
pulls it back. The minimum keeps the gradient there.

**Fine if** the bounds are so wide that they hold outliers only.

**Example.**

    maximize mean[p,i,t] (clip(r, 1 - eps, 1 + eps) * A)

**Instead.** `surrogate(r, A, 1 - eps, 1 + eps)`.

**Papers.** PPO, arXiv:1707.06347, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.ir.nodes import Binary, Clip, Expr, LogProb, topological
from objdsl.lint.places import with_gradient
from objdsl.lint.rule import Rule, rule


@rule("clip-without-min", "OBJ407", Severity.WARNING)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    nodes = with_gradient(facts.objective.goal)
    clips = [node for node in nodes if isinstance(node, Clip) and _of_policy(node.x)]
    for clip in clips:
        if not any(_keeps(node, clip) for node in nodes):
            yield rule.finding(
                "outside of its bounds this clip has no gradient, on either side",
                clip.span,
                under="without a minimum around it",
                consequence="a good token that the policy has left, and a bad one that it has "
                "come to, are not pulled back",
                help="surrogate(r, A, lo, hi) takes the minimum of both",
                fine_if="the bounds hold outliers only",
            )


def _of_policy(x: Expr) -> bool:
    return any(isinstance(node, LogProb) and node.trained for node in topological(x))


def _keeps(node: Expr, clip: Clip) -> bool:
    """Whether a minimum or maximum chooses between the clipped value and the plain one."""
    if not isinstance(node, Binary) or node.op not in ("min", "max"):
        return False
    for one, other in ((node.a, node.b), (node.b, node.a)):
        if clip in topological(one) and clip not in topological(other):
            return clip.x in topological(other) or _of_policy(other)
    return False
