"""The penalty has a ratio to `old`, but the responses come from `mu`.

**What.** `pi / old * k3(pi, ref)` where the reward is corrected for the sampler by `pi / mu`, or
not at all.

**Why.** The live ratio does two things: it turns the estimator into the reverse KL at the visited
states, and it corrects for the policy that sampled them. With `old` in the denominator it corrects
for a policy that did not sample: to first order the gradient is off by
`E[X log(old / mu) grad log pi]`, X = log(ref / pi). Where the reward has the same ratio,
`uncorrected-sampler` reports both. A geometric mean of ratios in front of a penalty is
`not-a-divergence`.

**Fine if** both engines agree to rounding.

**Example.**

    maximize mean[p,i] sum[t] (pi / mu * A - beta * pi / old * k3(pi, ref))

**Instead.** `pi / mu * k3(pi, ref)`.

**Papers.** DeepSeek-V3.2, arXiv:2512.02556, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import versions
from objdsl.analysis.gradient.terms import Kind
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("kl-ratio-base", "OBJ310", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order, sampling = facts.first_order, facts.objective.sampling
    if sampling.policy != "mu" or order is None:
        return
    if any(branch.drift and not branch.engine for branch in order.branches):
        return  # uncorrected-sampler
    for near in facts.near:
        powers = [versions(term, near.expand) for term in near.of(Kind.PENALTY)]
        if powers and all(power.get("old", 0) < 0 and not power.get("mu") for power in powers):
            yield rule.finding(
                "the penalty's ratio is to `old`, but responses come from `mu`",
                reading(facts, "old"),
                under="treats old as the policy that sampled",
                labels=(Label(sampling.span, "sampled here"),) if sampling.span else (),
                gradient="off by E[X log(old / mu) grad log(pi)], to first order",
                help="use the ratio to mu",
                fine_if="both engines agree to rounding",
            )
