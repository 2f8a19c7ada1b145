"""The bound `max(x, c * A)` or `min(x, c * A)` removes the gradient where it is needed.

**What.** The second bound of a dual clip without the condition `A < 0`, or under the opposite
condition; with a `c` that is not above the clip's own upper bound; or an upper bound
`min(r * A, c * A)` for both signs of A.

**Why.** The bound is needed for `A < 0` alone, where the minimum does not bound the ratio. With A
> 0 and c > 1, `max(x, c * A)` is `c * A` as long as the ratio is below c: a number without a
gradient, so right answers teach nothing. With A < 0 and c <= 1 the same happens to wrong answers,
even on policy; with c between 1 and the clip's upper bound it happens inside the clip's bounds.
With A < 0 and c > 1, `min(r * A, c * A)` is `c * A` as long as the ratio is below c: wrong answers
teach nothing.

**Fine if** never.

**Example.**

    maximize mean[p,i,t] max(surrogate(r, A, 1 - eps, 1 + eps), c * A)

**Instead.** `dual_clip(surrogate(r, A, 1 - eps, 1 + eps), A, c)` with c = 3.

**Papers.** Dual-clip PPO, arXiv:1912.09729, eq. 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, TooLargeError, number
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.build import ZERO
from objdsl.lint.places import extrema
from objdsl.lint.rule import Rule, rule


@rule("dual-clip-bound", "OBJ410", Severity.ERROR, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    on = facts.on_policy
    for node, sign, branch in extrema(facts.objective.goal):
        if node.a.live == node.b.live:
            continue
        below = (node.op == "max") == (sign > 0)
        surrogate, bound = (node.a, node.b) if node.a.live else (node.b, node.a)
        try:
            value, c = on(surrogate), _multiple(on(bound), on(surrogate))
            if c is None:
                continue
            dead = _dead(on, surrogate, c, sign, branch, below=below)
        except TooLargeError:
            continue
        upper = _upper(on, surrogate)
        if dead or (below and value.terms and c <= upper):
            yield rule.finding(
                f"the bound at {c:g} removes the gradient where it is needed",
                node.span,
                severity=None if dead else Severity.WARNING,
                claim=Claim.DIRECTION
                if dead and facts.departs(Claim.DIRECTION)
                else Claim.OFF_POLICY,
                under="on policy, a number without a gradient"
                if dead
                else f"within the clip's own bound, {upper:g}",
                consequence=f"{dead} teach nothing"
                if dead
                else "a wrong answer's token is no longer pushed down once its ratio exceeds "
                f"{c:g}",
                help="use dual_clip(x, A, 3): for A < 0 alone, and well above the clip"
                if below
                else f"apply it for A > 0 alone; or bound the ratio, min(r, {c:g}) * A",
            )


def _multiple(bound: Sum, surrogate: Sum) -> float | None:
    """The number c of `c * A`, A being the surrogate on policy; None if there is none, or 0,
    which leaves out one sign of rewards on purpose."""
    if not surrogate.terms or surrogate.terms.keys() != bound.terms.keys():
        return None
    first = next(iter(surrogate.terms))
    c = bound.terms[first] / surrogate.terms[first]
    return c if not (bound - surrogate.scaled(c)).terms else None


def _dead(
    on: Expand, surrogate: n.Expr, c: float, sign: int, branch: n.Expr | None, *, below: bool
) -> str:
    """The answers for which the bound, from below or above, is taken on policy, within its branch;
    empty for none."""
    within = number(1) if branch is None else on(branch)
    for right, answers in ((True, "right answers"), (False, "wrong answers")):
        side = n.Binary("gt" if right == (sign > 0) else "lt", surrogate, ZERO)
        taken = c >= 1 if right == below else c <= 1
        if taken and (within * on(side)).terms:
            return answers
    return ""


def _upper(on: Expand, surrogate: n.Expr) -> float:
    """The upper bound of the surrogate's clip, or 1."""
    bounds = (
        on(x.hi).number for x in n.topological(surrogate) if isinstance(x, n.Clip) and x.x.live
    )
    return max((x for x in bounds if x is not None), default=1.0)
