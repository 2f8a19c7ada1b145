"""The clipped surrogate is taken the wrong way round: max where min is meant.

**What.** `max(r * A, clip(r) * A)` in what is maximised, or `min` in what is minimised.

**Why.** The minimum is pessimistic: no reward for moving further than the bounds. The maximum is
the opposite: it rewards moving out of them without bound, and has no gradient within reach of the
way back. The cosine to the policy gradient off policy is 0.63 on average, and negative at worst.

**Fine if** never.

**Example.**

    maximize mean[p,i,t] max(r * A, clip(r, 1 - eps, 1 + eps) * A)

**Instead.** `min` in what is maximised; `max` of the negatives in what is minimised.

**Papers.** PPO, arXiv:1707.06347, eq. 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.differentiate import clipped_surrogate
from objdsl.ir.build import bounds
from objdsl.ir.nodes import Binary, Expr, Others, Reduce, Unary, Where
from objdsl.lint.rule import Rule, rule


@rule("optimistic-clip", "OBJ408", Severity.ERROR)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for node, sign in signed(facts.objective.goal):
        wrong = "max" if sign > 0 else "min"
        if node.op == wrong and clipped_surrogate(node) is not None:
            yield rule.finding(
                f"`{node.op}` rewards the policy for leaving the bounds of the clip",
                node.span,
                under="the optimistic side",
                consequence="the ratio is driven out of its bounds, and nothing brings it back",
                help="min in what is maximised, max of the negatives in what is minimised",
            )


def signed(goal: Expr) -> Iterator[tuple[Binary, int]]:
    """The minima and maxima that pass a gradient on, each with the sign that it has in the goal;
    those are left out whose sign depends on data."""
    stack = [(goal, 1)]
    seen: set[tuple[Expr, int]] = set()
    while stack:
        node, sign = stack.pop()
        if not node.live or (node, sign) in seen:
            continue
        seen.add((node, sign))
        match node:
            case Binary("min" | "max", a, b):
                yield node, sign
                stack += [(a, sign), (b, sign)]
            case Unary("neg", x):
                stack.append((x, -sign))
            case Binary("sub", a, b):
                stack += [(a, sign), (b, -sign)]
            case Binary("add", a, b) | Where(_, a, b):
                stack += [(a, sign), (b, sign)]
            case Binary("mul", a, b):
                stack += [(a, sign)] if bounds(b)[0] >= 0 else []
                stack += [(b, sign)] if bounds(a)[0] >= 0 else []
            case Binary("div", a, b) if bounds(b)[0] >= 0:
                stack.append((a, sign))
            case Reduce("sum" | "mean", _, x) | Others(_, x):
                stack.append((x, sign))
