"""The KL in the reward is divided by the rewards' deviation: beta differs between groups.

**What.** A penalty inside a reward that is then normalised by a standard deviation.

**Why.** The effective strength of the penalty is `beta / std`: strong where rewards hardly differ,
weak where they differ a lot.

**Fine if** never on purpose.

**Example.**

    R = reward - beta * sum[t] k1(old, ref)
    A = (R - mean[i] R) / (std[i] R + 1e-6)

**Instead.** Subtract the penalty after the division, or drop the division.

**Papers.** REINFORCE++, arXiv:2501.03262, does this over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.shapes import measures_dispersion
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("kl-reward-normalised", "OBJ309", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in facts.penalties:
        estimator = facts.estimators[0]
        divisors = (
            f for f in penalty.scale if f.exponent < 0 and measures_dispersion(estimator, f)
        )
        divisor = next(divisors, None)
        if divisor is not None:
            batch = divisor.depends.batch
            yield rule.finding(
                f"the penalty against `{penalty.policy}` is divided by the rewards' standard "
                "deviation",
                divisor.origin.span,
                severity=Severity.NOTE if batch else None,
                under="divides the penalty too",
                consequence="the strength of the penalty varies from "
                + ("step to step" if batch else "group to group"),
                gradient=f"{penalty.descends.of(penalty.policy)}, times a random strength",
                help="subtract the penalty after the division",
                fine_if="you reproduce a paper that does so",
            )
            return
