"""Responses are stale, and nothing bounds the ratio where the advantage is negative.

**What.** `surrogate(r, A, lo, hi)` on samples that are declared stale, without a dual clip or a
mask.

**Why.** For A < 0 the minimum bounds the ratio from below only: `min(r A, clip(r) A)` is `r A` for
any r above 1 + eps. A token of a wrong answer that has become ten times as likely since the
rollout has ten times the weight. On fresh responses that is rare; on responses from four updates
ago it is not, and a single token can dominate the step.

**Fine if** ratios stay near 1; `report` the largest one.

**Example.**

    sample from mu: group 16, staleness 4
    maximize mean[p,i,t] surrogate(pi / old, A, 0.8, 1.2)

**Instead.** `dual_clip(surrogate(r, A, 0.8, 1.2), A, 3)`, or a mask of the wrong answers that the
policy has moved away from.

**Papers.** Dual-clip PPO, arXiv:1912.09729; DeepSeek-V3.2, arXiv:2512.02556, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.symbols import OfTokens
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.ir.bounds import bounds
from objdsl.ir.differentiate import clipped_surrogate
from objdsl.ir.nodes import Expr, topological
from objdsl.lint.places import extrema
from objdsl.lint.rule import Rule, rule


@rule("unbounded-negative", "OBJ409", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    if not facts.rewarded or not sampling.staleness:
        return
    all_extrema = list(extrema(facts.objective.goal))
    bounded = {
        x
        for node, sign, _ in all_extrema
        if (node.op == "max") == (sign > 0)
        for x in topological(node.a, node.b)
    }
    for node, _, branch in all_extrema:
        surrogate = clipped_surrogate(node)
        if surrogate is None or node in bounded or (branch is not None and _reads_policy(branch)):
            continue
        if bounds(surrogate[1])[0] < 0:
            yield rule.finding(
                "nothing bounds the ratio where the advantage is negative",
                node.span,
                under="bounded on one side only",
                labels=(Label(sampling.span, "stale"),) if sampling.span else (),
                consequence="one token of a wrong answer that has become likelier can dominate the "
                "step",
                help="use dual_clip(..., A, 3), or a mask",
                fine_if="ratios stay near 1",
            )


def _reads_policy(mask: Expr) -> bool:
    return any(isinstance(node, OfTokens) for node in topological(mask))
