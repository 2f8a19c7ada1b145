"""What the terms besides the reward descend, where it is not the KL of whole responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Departure, Reason, departure
from objdsl.analysis.gradient.advantage import Adds
from objdsl.analysis.gradient.divergence import Credit, Descends, Penalty, unread
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.terms import Factor
from objdsl.analysis.values.dependence import depends
from objdsl.diagnostic import Claim

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


def penalties(facts: Facts) -> Iterator[Departure]:
    """The penalties and bonuses that are not exact, or have no gradient."""
    for penalty in (*facts.penalties, *facts.distribution_penalties):
        if not _exact(penalty, facts):
            yield Departure(Claim.PENALTY, Reason.PENALTY, penalty=penalty)
    # Where scores of responses pass through a link, the frozen policy is a part of these.
    if not facts.links and any(map(unread, (*facts.estimators, *facts.by_distributions))):
        yield departure(Reason.UNREAD_PENALTY)
    if facts.of_entropy:
        yield departure(Reason.ENTROPY)
    if facts.bonuses:
        yield departure(Reason.FLAT_BONUS)
    penalised = frozen(facts.objective)
    advantages = (live.node for live in facts.live_advantages if live.adds is Adds.BIAS)
    nodes = n.topological(*advantages)
    if any(isinstance(x, n.LogProb | n.LogDist) and x.policy in penalised for x in nodes):
        yield departure(Reason.LIVE_PENALTY)
    read = n.policies_in(*n.topological(*facts.weights.values()))
    named = n.policies_in(*n.topological(facts.objective.goal))
    without = any(policy in named and policy not in read for policy in penalised)
    if without or any(idle.policies for idle in facts.idle):
        yield departure(Reason.WITHOUT_GRADIENT)
    if any(not idle.policies for idle in facts.idle):
        yield departure(Reason.IDLE_BONUS)


def _exact(penalty: Penalty, facts: Facts) -> bool:
    """Whether a penalty descends the reverse KL of whole responses, with one strength for all."""
    return (
        penalty.descends is Descends.REVERSE_KL
        and not penalty.away
        and penalty.credit is not Credit.TOKEN
        and not any(not _constant(factor, facts) for factor in penalty.scale)
    )


def _constant(factor: Factor, facts: Facts) -> bool:
    return factor.depends.constant or depends(factor.base).constant
