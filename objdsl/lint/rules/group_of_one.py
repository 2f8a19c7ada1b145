"""Group statistics with a group size of one.

**What.** `group 1`, and a mean, a standard deviation or the other responses of the group in the
formula.

**Why.** The mean of one reward is that reward: the advantage is 0, and nothing is learned. The
mean over no other responses is 0: the baseline silently vanishes.

**Fine if** never.

**Example.**

    A = reward - mean[i] reward
    sample from mu: group 1

**Instead.** Groups of at least 2; or a baseline that needs no group: a critic, `given greedy[p]`,
or the mean of the step.
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
        others = isinstance(node, n.Peers) and node.relation == "!="
        alone = isinstance(node, n.Reduce | n.Peers) and node.over[0] == "i" and node.x != ONE
        if alone and node.span is not None:
            yield rule.finding(
                "a group statistic with a group size of one",
                node.span,
                claim=Claim.NUMERICS if others else None,
                under="0: there are no others" if others else "over one response",
                labels=(Label(sampling.span, "one response per prompt"),) if sampling.span else (),
                consequence="there is no baseline"
                if others
                else "the response is compared with itself: nothing is learned",
                help="use groups of at least 2",
            )
            return
