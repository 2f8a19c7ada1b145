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

from collections.abc import Iterable, Iterator

from objdsl.analysis.estimator import frozen
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Binary, Clip, Expr, LogProb, topological
from objdsl.lint.rule import Rule, rule


@rule("clip-without-min", "OBJ407", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    nodes = facts.passing
    kept, penalised = _kept(nodes), frozen(facts.objective)
    for clip in nodes:
        if isinstance(clip, Clip) and clip not in kept and _of_policy(clip.x, penalised):
            yield rule.finding(
                "outside of its bounds this clip has no gradient, on either side",
                clip.span,
                under="without a minimum around it",
                consequence="a good token that the policy has left, and a bad one that it has "
                "come to, are not pulled back",
                help="surrogate(r, A, lo, hi) takes the minimum of both",
                fine_if="the bounds hold outliers only",
            )


def _of_policy(x: Expr, penalised: list[str]) -> bool:
    """Whether a value moves with the policy, and is none of a penalty (clipped-penalty)."""
    logs = [node for node in topological(x) if isinstance(node, LogProb)]
    return any(one.trained for one in logs) and not any(one.policy in penalised for one in logs)


def _kept(nodes: Iterable[Expr]) -> set[Expr]:
    """The clips of which a minimum or maximum has the clipped value on one side, and on the other
    one that moves with the policy."""
    kept: set[Expr] = set()
    for node in nodes:
        if isinstance(node, Binary) and node.op in ("min", "max"):
            below = set(topological(node.a)), set(topological(node.b))
            for one, other in (below, below[::-1]):
                if any(isinstance(x, LogProb) and x.trained for x in other):
                    kept |= {x for x in one - other if isinstance(x, Clip)}
    return kept
