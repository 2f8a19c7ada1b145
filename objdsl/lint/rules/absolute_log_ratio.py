"""The gradient of this penalty is that of the total variation, not that of a KL.

**What.** `abs(log(pi / ref))` in the loss.

**Why.** The weight is the sign of the log-ratio: `E[sign log(pi / ref) grad log pi]` is the
gradient of the total variation distance, not of a KL. It is equally strong for the smallest and
the largest differences, and 0 where there is none.

**Fine if** a bounded penalty gradient is wanted.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - beta * abs(log(pi / ref)))

**Instead.** `k2(pi, ref)`, the square.

**Papers.** verl's `kl_loss_type=abs`; KL-Cov, arXiv:2505.22617.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.divergence import Descends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading
from objdsl.lint.rule import Rule, rule


@rule("absolute-log-ratio", "OBJ312", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in facts.penalties:
        if penalty.descends is Descends.TOTAL_VARIATION:
            policy = penalty.policy
            yield rule.finding(
                "the gradient of this penalty is that of the total variation",
                reading(facts, policy),
                under="the weight is only a sign",
                labels=penalty_label(facts),
                value=f"at least an estimate of KL(pi || {policy})",
                gradient="that of the total variation: equally strong near the reference and far "
                "away",
                help=f"k2(pi, {policy}) has the gradient of the KL",
                fine_if="a bounded penalty gradient is wanted",
            )
