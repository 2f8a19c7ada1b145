"""The clipped surrogate takes the maximum where the minimum is meant.

**What.** `max(r * A, clip(r) * A)` in what is maximised, or `min` in what is minimised.

**Why.** The minimum is pessimistic: it does not reward moving outside the bounds. The maximum is
the opposite: it rewards moving outside them without limit, and has no gradient where the policy
should be brought back. The cosine to the policy gradient off policy is 0.63 on average, and
negative at worst.

**Fine if** never.

**Example.**

    maximize mean[p,i,t] max(r * A, clip(r, 1 - eps, 1 + eps) * A)

**Instead.** `min` in what is maximised; `max` of the negatives in what is minimised.

**Papers.** PPO, arXiv:1707.06347, eq. 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Fix, Severity
from objdsl.ir.differentiate import clipped_surrogate
from objdsl.ir.nodes import Binary
from objdsl.lint.places import extrema, renamed
from objdsl.lint.rule import Rule, rule


@rule("optimistic-clip", "OBJ408", Severity.ERROR, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for node, sign, _ in extrema(facts.objective.goal):
        wrong = "max" if sign > 0 else "min"
        if node.op == wrong and clipped_surrogate(node) is not None:
            yield rule.finding(
                f"`{node.op}` rewards the policy for leaving the bounds of the clip",
                node.span,
                under="the optimistic side",
                consequence="the ratio is driven outside its bounds, and nothing brings it back",
                help="use min in what is maximised, max of the negatives in what is minimised",
                fix=_fix(node),
            )


def _fix(node: Binary) -> Fix | None:
    right = "min" if node.op == "max" else "max"
    edit = renamed(node.span, node.op, right)
    return Fix(f"take the {right}imum", (edit,)) if edit else None
