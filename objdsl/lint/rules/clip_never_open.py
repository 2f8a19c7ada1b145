"""On policy this clip has no gradient: its bounds do not contain the value.

**What.** `clip(log(pi / old), 1 - eps, 1 + eps)` or `clip(pi / old, -eps, eps)`: on policy the
value is 0 or 1, which lies outside the bounds.

**Why.** The gradient of a clip is 0 outside its bounds. The first step after a rollout is on
policy, so it has no gradient at all; with a minimum around the clip, half of it.

**Fine if** never.

**Example.**

    z = clip(log(pi / old), 1 - eps, 1 + eps)

**Instead.** Bounds around 0 for a log-ratio, `-eps` and `eps`; bounds around 1 for a ratio.

**Papers.** GMPO, arXiv:2507.20673, clips log-ratios at -0.4 and 0.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import interval
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
                f"on policy the value is {value.number:g}, outside these bounds",
                clip.span,
                claim=Claim.DIRECTION if facts.departs(Claim.DIRECTION) else Claim.OFF_POLICY,
                under="on policy, always clipped",
                gradient="0 on policy, where every round of updates begins",
                help="use bounds around 0 for a log-ratio, around 1 for a ratio",
            )


def _learns(node: n.Expr) -> bool:
    return isinstance(node, n.LogProb) and node.trained
