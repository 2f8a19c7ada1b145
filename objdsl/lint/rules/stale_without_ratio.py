"""Responses of a different policy are treated as if the current policy had just sampled them.

**What.** `sample from mu: staleness 4`, or `sample from ref`, and a reward beside `log(pi)`
without a ratio to any policy that could have sampled.

**Why.** `E[R grad log pi]` is the gradient of the expected reward while the policy itself samples
the responses. From the second update on, or with the responses of a different policy, it is that
of `E_mu[R log pi]`, a weighted likelihood: to first order it is off by
`E[R sum[t] log(pi / mu) grad log pi]`. Baselines no longer cancel either, and negative rewards
push down a likelihood that has no lower bound.

**Fine if** fitting the right responses is intended: rejection sampling with rewards of 0 and 1,
reused, is supervised fine-tuning.

**Example.**

    sample from mu: group 8, staleness 4
    maximize mean[p,i] sum[t] (A * log(pi))

**Instead.** `pi / mu * A` with a clip, or `sg(min(pi / mu, 2)) * A * log(pi)`.

**Papers.** RAFT, arXiv:2304.06767, and its analysis, arXiv:2504.11343; TOPR, arXiv:2503.14286.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Label, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("stale-without-ratio", "OBJ705", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    foreign = sampling.policy not in ("pi", "old", "mu")
    read = n.policies_in(*n.topological(facts.objective.goal))
    samplers = {sampling.policy} if foreign else {"old", "mu"}
    if not facts.rewarded or not (foreign or sampling.staleness) or read & samplers:
        return
    where = f"`{sampling.policy}`" if foreign else "older weights"
    yield rule.finding(
        f"responses come from {where}, and no ratio corrects for it",
        reading(facts, facts.rewarded[0].leaf.policy, live=True),
        under="as if the policy had just sampled the response",
        labels=(Label(sampling.span, "sampled here"),) if sampling.span else (),
        value="a likelihood, weighted by the reward",
        gradient="off by E[R sum[t] log(pi / sampler) grad log(pi)], to first order",
        help="multiply by the ratio to the policy that sampled, truncated",
        fine_if="the right responses should be imitated",
    )
