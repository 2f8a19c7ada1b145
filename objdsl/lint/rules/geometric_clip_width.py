"""The bounds of a clip do not fit its ratio: geometric means move much less than tokens' ratios.

**What.** A geometric mean of ratios with bounds 0.05 or more from 1; or a single token's ratio, or
the product over a response, with bounds less than 0.01 from 1.

**Why.** The logarithm of a geometric mean over T tokens has a T-th of the variance of a single
token's, and that of a product T times as much. With bounds made for single tokens, a geometric
mean is never clipped; with bounds made for geometric means, a single token's ratio or a product is
always clipped.

**Fine if** responses are a few tokens long.

**Example.**

    s = geo(pi / old)
    maximize mean[p,i] surrogate(s, A, 0.8, 1.2)

**Instead.** 3e-4 and 4e-4 for a geometric mean; 0.2 for a token's ratio.

**Papers.** GSPO, arXiv:2507.18071, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import Reach, reach
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.ir.nodes import Clip
from objdsl.lint.rule import Rule, rule

_WIDE, _NARROW = 0.05, 0.01


@rule("geometric-clip-width", "OBJ411", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    near, on = facts.near_policy, facts.on_policy
    for clip in facts.passing:
        if not isinstance(clip, Clip):
            continue
        try:
            runs = reach(near(clip.x), near)
            low, high = on(clip.lo).number, on(clip.hi).number
        except TooLargeError:
            continue
        if low is None or high is None:
            continue
        width = min(1 - low, high - 1)
        wide = runs == {Reach.MEAN} and width >= _WIDE
        moves = runs == {Reach.TOKEN} or runs == {Reach.SEQUENCE}
        narrow = moves and 0 < max(1 - low, high - 1) <= _NARROW
        if wide or narrow:
            closed = "token" if Reach.TOKEN in runs else "response"
            yield rule.finding(
                "these bounds do not fit the ratio",
                clip.span,
                certainty=Certainty.LIKELY,
                under="made for the ratio of a token" if wide else "made for a geometric mean",
                consequence="nothing is ever clipped" if wide else f"every {closed} is clipped",
                help="3e-4 and 4e-4 are meant for a geometric mean, (prod[t] r)^(1 / |y|)"
                if runs == {Reach.SEQUENCE}
                else "use 3e-4 and 4e-4 for a geometric mean, 0.2 for a token's ratio",
                fine_if="responses are a few tokens long",
            )
