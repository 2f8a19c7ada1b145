"""An importance weight has a lower bound: tokens that became unlikely keep a weight.

**What.** `sg(clip(pi / old, 0.8, 1.28)) * A * log(pi)`, or `max(w, 0.5)` of a weight w that has no
gradient of its own.

**Why.** Truncating from above trades variance for bias. A floor reduces no variance: ratios below
it belong to tokens that the policy has moved away from, and a wrong answer's token keeps being
pushed down with the weight of the floor, however unlikely it has become. The expected gradient is
off by `E[(lo - w) A grad log(pi); w < lo]`.

**Fine if** the floor is below every ratio that occurs.

**Example.**

    maximize mean[p,i] sum[t] (sg(clip(pi / old, 0.8, 1.28)) * A * log(pi))

**Instead.** `sg(min(pi / old, 1.28))`.

**Papers.** CISPO, arXiv:2506.13585, eq. 4, uses no lower bound in practice.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.shapes import match_bounded
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import reach
from objdsl.analysis.values.reach import reached
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("floored-weight", "OBJ421", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    goal, expand = facts.objective.goal, facts.far.expand
    reads = n.holding(lambda node: isinstance(node, n.LogProb), goal)
    seen: set[n.Expr] = set(facts.passing)  # clip-without-min
    for node in reached(goal, live=False, rewarded=True):
        if node in seen or node not in reads:
            continue
        clip = match_bounded(node, reads.__contains__, expand)
        if clip is None or clip.lo is None or not reach(expand(clip.x), expand):
            continue
        seen |= set(clip.through)
        yield rule.finding(
            "an importance weight has a lower bound",
            node.span or goal.span,
            under="ratios below the floor are raised to it",
            consequence="a wrong answer's token keeps being pushed down, however unlikely it has "
            "become",
            gradient="off by E[(floor - w) A grad log(pi)], where the weight w is below the floor",
            help="drop the floor: min(w, c)",
            fine_if="the floor is below every ratio that occurs",
        )
