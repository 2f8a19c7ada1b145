"""Prompts are kept by their rewards: the rare ones weigh more.

**What.** `keep p where` a condition on rewards of the group.

**Why.** A prompt of solve rate q keeps `1 - q^G - (1 - q)^G` of its groups. If the sampler goes
on until the step is full, its groups count by the reciprocal of that relative to all that were
drawn: 13 times at q = 0.02 and groups of 2, 5.9 at 8, 1.4 at 64. Inside a prompt nothing is bent,
for groups that are left out have no advantage anyway.

**Fine if** that is meant: no step is wasted on prompts that teach nothing.

**Example.**

    keep p where min[i] reward < max[i] reward

**Instead.** No `keep`; the groups without an advantage then count in the denominator.

**Papers.** DAPO, arXiv:2503.14476, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.estimator import SIGNAL
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.ir.nodes import Column, topological
from objdsl.lint.rule import Rule, rule


@rule("dynamic-sampling", "OBJ603", Severity.NOTE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    keep = facts.objective.keep
    if keep is None or not facts.rewarded:
        return
    if any(isinstance(node, Column) and node.name == SIGNAL for node in topological(keep)):
        yield rule.finding(
            "prompts that are nearly always or nearly never solved weigh more",
            keep.span,
            under="keeps prompts by their rewards",
            gradient="right for each prompt; prompts weigh by how rarely they are kept",
            fine_if="no step is to be wasted on prompts that teach nothing",
        )
