"""A model with experts, and the sampler's choice of experts is not kept.

**What.** `sample from mu: experts` without `keep_routing`.

**Why.** The two engines round differently, so they choose other experts for some tokens; the
ratio of the two probabilities then jumps, and clips and masks follow it.

**Fine if** the ratio is to one engine's own probabilities.

**Example.**

    sample from mu: group 8, experts

**Instead.** `sample from mu: group 8, experts, keep_routing`, which replays the choice.

**Papers.** DeepSeek-V3.2, arXiv:2512.02556, section 3.1, "Keep Routing"; GSPO, arXiv:2507.18071,
5.3.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("unrecorded-routing", "OBJ417", Severity.NOTE, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    if facts.rewarded and sampling.experts and not sampling.keep_routing:
        yield rule.finding(
            "the sampler's choice of experts is not kept",
            sampling.span,
            under="experts, without keep_routing",
            consequence="ratios jump where the engines choose other experts",
            help="`keep_routing` replays the choice",
            fine_if="one engine computes all probabilities",
        )
