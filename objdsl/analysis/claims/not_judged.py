"""Parts of an objective that are too large to be read: which claims are then not judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.claims.reasons import Departure, Reason
from objdsl.analysis.gradient import bonuses
from objdsl.analysis.gradient.advantage import too_many
from objdsl.analysis.gradient.estimator import Direction
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


def not_judged(facts: Facts) -> Iterator[Departure]:
    """The parts that the analyses leave out, once for each claim and part."""
    goal = facts.objective.goal
    if any(e.direction is Direction.UNKNOWN for e in facts.estimators):
        yield _departure(Claim.PROMPT_WEIGHTS, goal, "the weight has more terms than are read")
        yield _departure(Claim.OFF_POLICY, goal, "the weight has more terms than are read")
        if frozen(facts.objective):
            yield _departure(Claim.PENALTY, goal, "the weight has more terms than are read")
    elif facts.rewarded and not (facts.intended and facts.unpenalised):
        yield _departure(Claim.DIRECTION, goal, "without its penalties the weight cannot be read")
    if too_many(goal):
        yield _departure(
            Claim.DIRECTION, goal, "more advantages and divisors carry a gradient than are read"
        )
    if facts.rewarded and bonuses.too_many(facts.objective):
        yield _departure(
            Claim.PENALTY, goal, "the sum has more terms of log-probabilities than are read"
        )
    if facts.ranges and facts.extremes.gave_up:
        yield _departure(Claim.NUMERICS, goal, "the formula has more conditions than are read")
    for link in facts.links:
        if not link.slopes:
            yield _departure(Claim.DIRECTION, link.node, "the score has more terms than are read")
            break
    yield from _parts_not_judged(facts)


def _parts_not_judged(facts: Facts) -> Iterator[Departure]:
    """Parts of the goal that multiply out to too much: findings about clips, bounds and divisors
    then concern the other parts only."""
    why = "it multiplies out to more terms than are read"
    seen: set[Claim] = set()
    for node in n.topological(facts.objective.goal):
        claim, parts = _needed(node)
        if claim is None or claim in seen:
            continue
        if any(_unread(part, expand) for part in parts for expand in facts.expansions):
            seen.add(claim)
            yield _departure(claim, node, why)


def _needed(node: n.Expr) -> tuple[Claim | None, tuple[n.Expr, ...]]:
    """The claim for which rules judge a node, and the parts that they have to read for it."""
    match node:
        case n.Clip() | n.Binary("min" | "max"):
            return (Claim.OFF_POLICY, node.children) if node.live else (None, ())
        case n.Binary("div", _, divisor):
            return Claim.NUMERICS, (divisor,)
    return None, ()


def _unread(part: n.Expr, expand: Expand) -> bool:
    try:
        expand(part)
    except TooLargeError:
        return True
    return False


def _departure(claim: Claim, node: n.Expr, why: str) -> Departure:
    return Departure(claim, Reason.NOT_JUDGED, node=node, why=why)
