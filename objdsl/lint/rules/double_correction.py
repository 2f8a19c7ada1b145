"""The mismatch between the engines is corrected twice.

**What.** `pi / mu` and `old / mu` in one product.

**Why.** `pi / mu` is `pi / old * old / mu`: it corrects for both mismatches already. To first
order the weight has `2 log(old / mu)`, further from the truth than no correction at all once the
engines disagree more than the policies have drifted.

**Fine if** never.

**Example.**

    maximize mean[p,i] sum[t] (old / mu * pi / mu * A)

**Instead.** One of `pi / mu` and `old / mu * pi / old`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("double-correction", "OBJ402", Severity.ERROR)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order = facts.first_order
    if order is not None and sum(order.engine.values()) > 1 + 1e-9:
        yield rule.finding(
            "the mismatch between `old` and `mu` is corrected more than once",
            reading(facts, "mu"),
            under=f"log(old / mu) enters {sum(order.engine.values()):g} times",
            gradient="biased to first order in log(old / mu), with the sign turned",
            help="keep one of pi / mu and old / mu",
        )
