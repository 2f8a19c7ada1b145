"""Prompts are kept by what came out: the rare ones weigh more, or other responses are meant.

**What.** `keep p where` a condition on the responses of the group.

**Why.** A prompt of solve rate q keeps `1 - q^G - (1 - q)^G` of its groups. If the sampler goes
on until the step is full, its groups count by the reciprocal of that relative to all that were
drawn: 13 times at q = 0.02 and groups of 2, 5.9 at 8, 1.4 at 64. Inside a prompt nothing is bent
as long as groups that are left out have no advantage anyway, or rewards have two values
(docs/criterion.md). Without a baseline, under another condition, or by lengths, a response counts
by what it has to do with being kept, and that is a bias: with `A = reward` and groups of 2, 0.42.

**Fine if** that is meant: no step is wasted on prompts that teach nothing.

**Example.**

    keep p where min[i] reward < max[i] reward

**Instead.** No `keep`; the groups without an advantage then count in the denominator.

**Papers.** DAPO, arXiv:2503.14476, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.values.dependence import depends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("dynamic-sampling", "OBJ603", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    keep = facts.objective.keep
    if keep is None or not facts.rewarded or not depends(keep).own:
        return
    read = depends(keep)
    rewards = bool(read.rewards) and read.rewards == read.reads
    by = "rewards" if read.rewards else "responses"
    chosen = [estimator for estimator in facts.rewarded if estimator.chosen]
    if chosen:
        # With rewards of two values, which are not declared, it may be right as it is.
        may_be_right = rewards and all(estimator.centred for estimator in chosen)
        yield rule.finding(
            "a response counts by whether its group is kept, which it has a part in",
            keep.span,
            severity=Severity.NOTE if may_be_right else None,
            under=f"keeps prompts by their {by}",
            gradient="that of the rewards of kept groups, which is another one",
            help="keep where rewards differ, and subtract their mean"
            + ("; or say `given reward in {0, 1}`, if it is" if rewards else ""),
            fine_if="the groups that are left out are not to count",
        )
    else:
        yield rule.finding(
            "prompts that are nearly always or nearly never solved weigh more",
            keep.span,
            severity=Severity.NOTE,
            claim=Claim.PROMPT_WEIGHTS,
            under=f"keeps prompts by their {by}",
            gradient="right for each prompt; prompts weigh by how rarely they are kept",
            fine_if="no step is to be wasted on prompts that teach nothing",
        )
