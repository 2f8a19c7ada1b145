"""A learned number that nothing holds inside its domain.

**What.** Either the derivative by the number has one sign, whatever data and policy are, so that
every step of the optimizer moves it the same way; or the policy and the number raise the same goal,
which is linear in the number.

**Why.** In the first case it arrives at the end of its domain, or grows as long as training lasts.
In the second, `J = F + beta G` with `F` and `G` of the policy, no value of `beta` inside the domain
is a maximum unless `G = 0`: where `G` is negative, as in `- beta * kl`, `beta` falls until the
penalty is gone, and where it is positive `beta` and `G` drive each other up. A multiplier that is
to hold a constraint takes the opposite side: it *minimises* what the policy maximises, and rises as
long as the constraint is violated.

**Fine if** the end of the domain is where the number is meant to go.

**Example.**

    learn beta = 0.1 in [0, inf)
    maximize mean[p,i,t] (pi / mu * A) - beta * (mean[p,i,t] k3(pi, ref) - 0.05)

**Instead.**

    learn beta = 0.1 in [0, inf)
    L = mean[p,i,t] (pi / mu * A) - beta * (mean[p,i,t] k3(pi, ref) - 0.05)
    maximize L
    minimize learn L
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.values.learning import Drift
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.indices import decimal
from objdsl.lint.rule import Rule, rule


@rule("learned-runaway", "OBJ712", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for learned in facts.learning:
        name, domain = learned.number.name, learned.number.domain
        if learned.drift is Drift.OUTWARD:
            yield rule.finding(
                f"no value of `{name}` inside {domain} is best: what is maximized is linear in it",
                learned.number.span,
                consequence=f"`{name}` takes the policy's side: a penalty that it multiplies goes "
                "away, and a bonus outgrows the rest",
                help="a multiplier takes the other side: `minimize learn ...`",
                fine_if="it is meant to go to an end of its domain",
            )
        elif learned.drift is not Drift.OPEN:
            up = learned.drift is Drift.UP
            side = "what it minimizes" if learned.minimises else "what is maximized"
            verb = "falls" if up is not learned.minimises else "rises"
            yield rule.finding(
                f"`{name}` only ever {learned.drift.value}: {side} never {verb} with it",
                learned.number.span,
                consequence=f"it moves towards {decimal(domain.upper if up else domain.lower)} "
                "alone, whatever the policy learns",
                help="what it is compared with has to lie between the values that occur, as a "
                "target between the divergences",
                fine_if="it is meant to go to that end of its domain",
            )
