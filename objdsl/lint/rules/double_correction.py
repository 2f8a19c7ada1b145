"""The mismatch between two policies is corrected more than once.

**What.** `pi / mu` and `old / mu` in one product, or `pi / mu` and `pi / old`.

**Why.** `pi / mu` equals `pi / old * old / mu`: it already corrects both mismatches. To first
order the weight then contains `2 log(old / mu)`, or `2 log(pi / old)`, where the exact one
contains it once: a weight that would have been too small by the mismatch is now too large by it.

**Fine if** never.

**Example.**

    maximize mean[p,i] sum[t] (old / mu * pi / mu * A)

**Instead.** Either `pi / mu` or `old / mu * pi / old`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("double-correction", "OBJ402", Severity.ERROR, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order = facts.first_order
    if order is None:
        return
    for field, (new, old) in (("engine", ("old", "mu")), ("drift", ("pi", "old"))):
        times = max(branch.times(getattr(branch, field)) for branch in order.branches)
        if times > 1 + 1e-9:
            yield rule.finding(
                f"the mismatch between `{new}` and `{old}` is corrected more than once",
                reading(facts, old) or reading(facts, new),
                under=f"log({new} / {old}) enters {times:g} times",
                gradient=f"biased to first order in log({new} / {old}), with the opposite sign",
                help="keep one of pi / mu and old / mu"
                if new == "old"
                else "keep one of the ratios",
            )
