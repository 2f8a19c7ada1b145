"""A clipped ratio without a minimum: no gradient where the policy should be pulled back.

**What.** `clip(r, 1 - eps, 1 + eps) * A`, or a one-sided bound such as `min(r, 1.28) * A`, without
`min(r * A, ...)` around it.

**Why.** Outside its bounds a clip has no gradient, on either side. With A > 0 and r < 1 - eps the
policy has moved away from a good token; with A < 0 and r > 1 + eps it has moved towards a bad one.
In neither case does anything pull it back. The minimum keeps the gradient there.

**Fine if** the bounds are so wide that only outliers exceed them.

**Example.**

    maximize mean[p,i,t] (clip(r, 1 - eps, 1 + eps) * A)

**Instead.** `surrogate(r, A, 1 - eps, 1 + eps)`.

**Papers.** PPO, arXiv:1707.06347, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.shapes import Bounded, is_constant, match_bounded
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.build import ZERO
from objdsl.lint.rule import Rule, rule


@rule("clip-without-min", "OBJ407", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    nodes, penalised = facts.passing, frozen(facts.objective)
    moves = n.holding(_learns, facts.objective.goal)
    kept, inside = _kept(nodes, moves), set[n.Expr]()
    goal = facts.objective.goal
    penalties = n.holding(lambda x: isinstance(x, n.LogProb) and x.policy in penalised, goal)
    data = n.holding(lambda x: isinstance(x, n.Column), goal)
    for node in nodes:
        clip = None if node in inside else match_bounded(node, moves.__contains__, facts.far.expand)
        if clip is None:
            continue
        inside |= set(clip.through)
        beyond = clip.lo is not None or clip.hi is not None
        if node in kept or clip.x not in moves or clip.x in penalties or not beyond:
            continue
        if clip.x in data and not isinstance(node, n.Clip):
            continue  # dual-clip-bound
        if is_constant(clip.x, facts.far.expand):
            continue  # clip-without-effect
        yield rule.finding(
            "outside its bounds this clip has no gradient, on either side"
            if clip.lo is not None and clip.hi is not None
            else "beyond its bound this has no gradient, whatever the sign of the advantage",
            node.span or facts.objective.goal.span,
            under="without a minimum around it",
            consequence=_consequence(clip),
            help="use surrogate(r, A, lo, hi), which takes the minimum",
            fine_if="only outliers exceed the bounds",
        )


def _consequence(clip: Bounded) -> str:
    left = "a good token that the policy has moved away from" if clip.lo is not None else ""
    come = (
        "a bad one that it has moved towards"
        if left
        else "a bad token that the policy has moved towards"
    )
    parts = [part for part in (left, come if clip.hi is not None else "") if part]
    return (
        ", and ".join(parts)
        + f"{', ' if len(parts) > 1 else ' '}"
        + ("are not pulled back" if len(parts) > 1 else "is not pulled back")
    )


def _learns(node: n.Expr) -> bool:
    return isinstance(node, n.LogProb) and node.trained


def _kept(nodes: Iterable[n.Expr], moves: set[n.Expr]) -> set[n.Expr]:
    """The values that stand on one side of a minimum or maximum of which the other side moves with
    the policy, too."""
    kept: set[n.Expr] = set()
    for node in nodes:
        if isinstance(node, n.Binary) and node.op in ("min", "max"):
            below = set(n.topological(node.a)), set(n.topological(node.b))
            for inside, other in (below, below[::-1]):
                if not moves.isdisjoint(other):
                    kept |= inside - other
        match node:
            case n.Binary("mul", n.Where() as choice, by) | n.Binary(
                "mul", by, n.Where() as choice
            ):
                kept |= _by_sign(choice, by)
    return kept


def _by_sign(choice: n.Where, by: n.Expr) -> set[n.Expr]:
    """The bounds of the two branches of a surrogate: from above where what they are multiplied by
    is positive, and from below where it is not."""
    if by not in choice.m.children:
        return set()
    match choice.m:
        case n.Binary("gt" | "ge", _, zero) | n.Binary("lt" | "le", zero, _) if zero == ZERO:
            above, below = choice.a, choice.b
        case n.Binary("lt" | "le", _, zero) | n.Binary("gt" | "ge", zero, _) if zero == ZERO:
            above, below = choice.b, choice.a
        case _:
            return set()
    sides = ((above, "min"), (below, "max"))
    return {side for side, op in sides if isinstance(side, n.Binary) and side.op == op}
