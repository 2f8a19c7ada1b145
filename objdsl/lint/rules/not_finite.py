"""Part of the file is infinite or NaN for every input.

**What.** `reward / 0`, `log(0)`, `sqrt(-1)`, `inf - inf` or a number added to an infinity, in what
is maximised or minimised, in a definition or in a report, with the parameters at their default
values.

**Why.** An infinity or a NaN in the objective reaches every weight of the model after one step; in
a report it reaches the metrics.

**Fine if** never. An infinite bound, `clip(x, 0, inf)`, is not reported.

**Example.**

    maximize mean[p,i] (reward / 0 * sum[t] log(pi))

**Instead.** The number that was meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.values.constants import places
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("not-finite", "OBJ620", Severity.ERROR, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    seen = set()
    for node, value, place in places(facts.objective):
        span = place.span or facts.objective.goal.span
        if span in seen:
            continue
        seen.add(span)
        yield rule.finding(
            _message(node, value),
            span,
            under="NaN" if math.isnan(value) else "infinite",
            consequence="every weight of the model is NaN after a step that uses it",
            help="write the intended number",
        )


def _message(node: n.Expr, value: float) -> str:
    match node:
        case n.Binary("div"):
            return "this divides by 0 for every input"
        case n.Const():
            return "this is " + ("NaN" if math.isnan(value) else "an infinity")
    kind = "NaN" if math.isnan(value) else "infinite"
    return f"this is {kind} for every input"
