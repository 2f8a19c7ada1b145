"""This penalty drives the policy away from the frozen one.

**What.** The gradient *climbs* a divergence: `+ beta * k2(pi, ref)` in what is maximised, or a
subtracted KL whose arguments have been exchanged, and the like.

**Why.** On policy the weight is a positive multiple of the negative of a divergence's weight.

**Fine if** the policy should move away from the frozen one.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) + beta * k2(pi, ref))

**Instead.** Change the sign.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading
from objdsl.lint.rule import Rule, rule


@rule("penalty-sign", "OBJ313", Severity.ERROR, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in (*facts.penalties, *facts.distribution_penalties):
        if penalty.away:
            yield rule.finding(
                f"this term drives the policy away from `{penalty.policy}`",
                reading(facts, penalty.policy),
                under="with the wrong sign",
                labels=penalty_label(facts),
                gradient=f"climbs {penalty.descends.of(penalty.policy)}",
                help="change the sign",
                fine_if=f"pi should move away from {penalty.policy}",
            )
