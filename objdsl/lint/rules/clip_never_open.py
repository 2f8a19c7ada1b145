"""A clip is closed on policy: its bounds are in another space than its value.

**What.** `clip(log(pi / old), 1 - eps, 1 + eps)`, `clip(pi / old, -eps, eps)`: on policy the
value, 0 or 1, lies outside of the bounds.

**Why.** The gradient of a clip is 0 outside of its bounds. The first step after a rollout, on
policy, has none; with a minimum around it, half of it.

**Fine if** never.

**Example.**

    z = clip(log(pi / old), 1 - eps, 1 + eps)

**Instead.** Bounds around 0 for a log-ratio, `-eps` and `eps`, and around 1 for a ratio.

**Papers.** GMPO, arXiv:2507.20673, clips log-ratios at -0.4 and 0.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import interval
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("clip-never-open", "OBJ406", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    expand = facts.on_policy
    clips = [node for node in facts.passing if isinstance(node, n.Clip)]
    learns = n.holding(_learns, *clips)
    for clip in clips:
        if clip.x not in learns:
            continue
        value, low, high = (expand(x) for x in (clip.x, clip.lo, clip.hi))
        if value.number is None:
            continue
        if interval(low - value)[0] > 0 or interval(value - high)[0] > 0:
            yield rule.finding(
                f"on policy the value is {value.number:g}, outside of these bounds",
                clip.span,
                claim=Claim.DIRECTION if facts.departs(Claim.DIRECTION) else Claim.OFF_POLICY,
                under="closed on policy",
                gradient="0 on policy, where every update begins",
                help="bounds around 0 for a log-ratio, around 1 for a ratio",
            )


def _learns(node: n.Expr) -> bool:
    return isinstance(node, n.LogProb) and node.trained
