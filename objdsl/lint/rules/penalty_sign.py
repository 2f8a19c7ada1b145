"""A penalty drives the policy away from the frozen one.

**What.** The gradient *climbs* a divergence: `+ beta * k2(pi, ref)` in what is maximised, `KL`
with its arguments' roles mixed up under a minus sign, and the like.

**Why.** On policy its weight is a positive multiple of minus that of a divergence.

**Fine if** the frozen policy is one to be left behind.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) + beta * k2(pi, ref))

**Instead.** Turn the sign.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading
from objdsl.lint.rule import Rule, rule


@rule("penalty-sign", "OBJ313", Severity.ERROR, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in (*facts.penalties, *facts.word_penalties):
        if penalty.away:
            yield rule.finding(
                f"this term drives the policy away from `{penalty.policy}`",
                reading(facts, penalty.policy),
                under="its sign is turned",
                labels=penalty_label(facts),
                gradient=f"climbs {penalty.descends.of(penalty.policy)}",
                help="turn the sign",
                fine_if=f"{penalty.policy} is to be left behind",
            )
