"""Whether a prompt is kept depends on its responses: prompt weights change, or there is a bias.

**What.** `keep p where` followed by a condition on the responses of the group.

**Why.** A prompt with solve rate q keeps `1 - q^G - (1 - q)^G` of its groups. If the sampler
continues until the step is full, each kept group counts by the reciprocal of that, relative to all
groups that were drawn: 13 times at q = 0.02 with groups of 2, 5.9 times with groups of 8, 1.4
times with groups of 64. Within a prompt there is no bias as long as the dropped groups would have
had no advantage anyway, or the rewards have two values (docs/criterion.md). Without a baseline, or
with a condition on something else, or on lengths, a response counts by its own effect on whether
its group is kept, and that is a bias: 0.42 with `A = reward` and groups of 2.

**Fine if** that is meant: no step is spent on prompts that teach nothing.

**Example.**

    keep p where min[i] reward < max[i] reward

**Instead.** No `keep`; groups without an advantage then count in the denominator.

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
    if keep is None or not facts.rewarded or not depends(keep).on_response:
        return
    read = depends(keep)
    rewards = bool(read.rewards) and read.rewards == read.reads
    by = "rewards" if read.rewards else "responses"
    chosen = [estimator for estimator in facts.rewarded if estimator.selection_biases]
    if chosen:
        # If the rewards have two values, which are not declared, it may be right as it is.
        may_be_right = rewards and all(estimator.centred for estimator in chosen)
        yield rule.finding(
            "a response affects whether its own group is kept, and so how much it counts",
            keep.span,
            severity=Severity.NOTE if may_be_right else None,
            under=f"keeps prompts by their {by}",
            gradient="that of the expected reward over kept groups, which is a different one",
            help="keep groups whose rewards differ, and subtract their mean"
            + ("; or declare `given reward in {0, 1}`, if that holds" if rewards else ""),
            fine_if="dropped groups are not meant to count",
        )
    else:
        yield rule.finding(
            "prompts that are nearly always or nearly never solved weigh more",
            keep.span,
            severity=Severity.NOTE,
            claim=Claim.PROMPT_WEIGHTS,
            under=f"keeps prompts by their {by}",
            gradient="right for each prompt; the more rarely a prompt is kept, the more it weighs",
            fine_if="no step should be spent on prompts that teach nothing",
        )
