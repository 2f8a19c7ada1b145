"""The divisor of the policy's term carries a gradient of its own.

**What.** A divisor that contains the policy, without `sg`: `A * r / mean[i,t] r`, or an advantage
divided by a standard deviation of log-probabilities.

**Why.** `d (a / d) = da / d - a dd / d^2`: besides the intended weight there is a second one, the
whole numerator times the derivative of the divisor. `mean[i,t] r` subtracts from every response
the average of `A r` over the *tokens* of the group, a baseline that includes the response's own
length and reward: a bias of 0.17 of the gradient with 2 responses, 0.09 with 4.
`sum[t] log(pi) / mean[t] log(pi)` has no gradient at all.

**Fine if** never, where it is reported. The mean of the ratios of whole responses,
`mean[i] prod[t] (pi / old)`, adds a mean baseline, which causes no bias and is not reported.

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

# Longer formulas are not shown.
_LONGEST = 160


@rule("live-divisor", "OBJ512", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    advantages = (advantage.node for advantage in facts.live_advantages)
    named = set(topological(*advantages))  # by live-advantage
    for divisor in facts.live_divisors:
        if divisor.node in named:
            continue
        extra = facts.written(divisor.extra)
        yield rule.finding(
            "this divisor carries a gradient of its own",
            divisor.node.span or facts.objective.goal.span,
            under="changes with pi, without sg(...)",
            weight=f"w, in addition to what is intended: {extra}" if len(extra) <= _LONGEST else "",
            gradient="0: the additional term cancels the intended one"
            if divisor.cancels
            else "biased by the additional term",
            help="put sg(...) around it",
            fix=stop(facts, divisor.node),
        )
