"""The model has experts, and the sampler's choice of experts is not recorded.

**What.** `sample from mu: experts` without `keep_routing`.

**Why.** The two engines round differently, so they choose different experts for some tokens; the
ratio of the two probabilities then jumps, and so do clips and masks.

**Fine if** a single engine computes both probabilities of the ratio.

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
            "the sampler's choice of experts is not recorded",
            sampling.span,
            under="experts, without keep_routing",
            consequence="ratios jump where the engines choose different experts",
            help="`keep_routing` records and replays the choice",
            fine_if="a single engine computes all probabilities",
        )
