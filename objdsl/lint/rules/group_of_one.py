"""Statistics of a group, and groups of one.

**What.** `group 1`, and a mean, a deviation or the others of the group in the formula.

**Why.** The mean of one reward is that reward: the advantage is 0, and nothing is learned. The
mean of no others is 0: the baseline is gone, silently.

**Fine if** never.

**Example.**

    A = reward - mean[i] reward
    sample from mu: group 1

**Instead.** Groups of at least 2; or a baseline that needs none: a critic, `given greedy[p]`, the
mean of the step.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.ir.build import ONE
from objdsl.lint.rule import Rule, rule


@rule("group-of-one", "OBJ210", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    if sampling.group != 1:
        return
    for node in n.topological(*(w for w in facts.weights.values())):
        alone = isinstance(node, n.Others) or (
            isinstance(node, n.Reduce)
            and "i" in node.over
            and "p" not in node.over
            and node.x != ONE
        )
        if alone and node.span is not None:
            yield rule.finding(
                "a statistic of the group, and groups of one",
                node.span,
                claim=Claim.NUMERICS if isinstance(node, n.Others) else None,
                under="0: there are no others" if isinstance(node, n.Others) else "of one response",
                labels=(Label(sampling.span, "one response to a prompt"),) if sampling.span else (),
                consequence="the baseline is gone"
                if isinstance(node, n.Others)
                else "the response is compared with itself: nothing is learned",
                help="take groups of at least 2",
            )
            return
