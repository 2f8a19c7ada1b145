"""Wide bounds that are symmetric around 1 let a ratio fall much further than it may rise.

**What.** `clip(r, 1 - eps, 1 + eps)` with eps of 0.4 or more.

**Why.** Updates move the logarithm of the ratio, and `log(1 - eps)` is further from 0 than
`log(1 + eps)`: -0.22 and 0.18 with eps = 0.2, -0.69 and 0.41 with 0.5, -1.6 and 0.59 with 0.8.
With 0.8, wrong answers are pushed down to a fifth of their probability before the clip takes
effect, while right ones may not even double theirs.

**Fine if** it is intended; with 0.2 the difference is negligible.

**Example.**

    maximize mean[p,i,t] surrogate(r, A, 0.4, 1.6)

**Instead.** `surrogate(r, A, exp(-d), exp(d))`, or a separate upper bound, as in DAPO.

**Papers.** DAPO, arXiv:2503.14476, section 3.1 (clip-higher).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import reach
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Clip
from objdsl.lint.rule import Rule, rule

_WIDE = 0.4


@rule("lopsided-clip", "OBJ405", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    near, on = facts.near_policy, facts.on_policy
    for clip in facts.passing:
        if not isinstance(clip, Clip):
            continue
        try:
            low, high = on(clip.lo).number, on(clip.hi).number
            if low is None or high is None or not _wide(low, high) or not reach(near(clip.x), near):
                continue
        except TooLargeError:
            continue
        yield rule.finding(
            f"this clip lets the ratio fall by a factor of {1 / low:.3g}, and rise by {high:.3g}",
            clip.span,
            under=f"log: {math.log(low):.2g} to {math.log(high):.2g}",
            help="use bounds that are symmetric in the logarithm, exp(-d) and exp(d)",
            fine_if="it is intended",
        )


def _wide(low: float, high: float) -> bool:
    return low > 0 and high - 1 >= _WIDE - 1e-9 and math.isclose(1 - low, high - 1)
