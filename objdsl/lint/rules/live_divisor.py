"""What divides the policy's term carries a gradient of its own.

**What.** A divisor that holds the policy, without `sg`: `A * r / mean[i,t] r`, an advantage over
a deviation of log-probabilities.

**Why.** `d (a / d) = da / d - a dd / d^2`: beside the weight that was meant there is one of
everything above the line, times the derivative of the divisor. `mean[i,t] r` takes from every
response the average of `A r` over the *tokens* of the group, a baseline that holds the own length
and reward: a bias of 0.17 of the gradient with 2 responses, of 0.09 with 4. `sum[t] log(pi) /
mean[t] log(pi)` has no gradient at all.

**Fine if** never, where this is found. The mean of the ratios of whole responses, `mean[i] prod[t]
(pi / old)`, adds a mean baseline; that bends nothing, and is not found.

**Example.**

    r = pi / old
    maximize mean[p,i] sum[t] (A * r / mean[i,t] r)

**Instead.** `sg(...)` around the divisor.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import topological
from objdsl.lint.places import stop
from objdsl.lint.rule import Rule, rule

# More of a formula than this nobody reads.
_LONGEST = 160


@rule("live-divisor", "OBJ512", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    advantages = (one.node for one in facts.live_advantages)
    named = set(topological(*advantages))  # by live-advantage
    for found in facts.live_divisors:
        if found.node in named:
            continue
        extra = facts.written(found.extra)
        yield rule.finding(
            "what is divided by carries a gradient of its own",
            found.node.span or facts.objective.goal.span,
            under="changes with pi, without sg(...)",
            weight=f"w, beside what is meant: {extra}" if len(extra) <= _LONGEST else "",
            gradient="0: what is added takes away what is meant"
            if found.cancels
            else "biased by what is added",
            help="put sg(...) around it",
            fix=stop(facts, found.node),
        )
