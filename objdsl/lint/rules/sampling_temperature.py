"""Responses are sampled at a temperature: the policy at that temperature is trained.

**What.** `sample from mu: temperature 0.7`, or any other temperature than 1.

**Why.** The sampler draws from `softmax(z / T)`. The log-probabilities must be of the same
distribution, with the logits divided by T: `objdsl train` does that, and a trainer of your own
must. With those of `softmax(z)` the score has a nonzero expectation (about a tenth of its length
at T = 0.7, on small random policies), so baselines no longer cancel. And what improves is the
policy at temperature T, not the one at temperature 1.

**Fine if** the model is used at the temperature at which it is trained.

**Example.**

    sample from mu: group 8, temperature 0.7

**Instead.** `temperature 1`.

**Papers.** DeepSeekMath, arXiv:2402.03300, and most others sample at 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("sampling-temperature", "OBJ415", Severity.NOTE, Claim.STYLE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    if not facts.rewarded or sampling.temperature == 1:
        return
    yield rule.finding(
        f"the policy at temperature {sampling.temperature:g} is trained",
        sampling.span,
        under="the logits are divided by it",
        consequence="without that division, the expectation of the score is not 0",
        help="use temperature 1",
        fine_if="the model is used at this temperature",
    )
