"""Where steps of the optimizer lead the numbers that are learned beside the policy."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.bounds import bounds
from objdsl.ir.build import ZERO
from objdsl.ir.declarations import Learned
from objdsl.ir.differentiate import weights_of
from objdsl.ir.objective import Objective


class Drift(Enum):
    """Where a number goes, whatever the data and the policy are."""

    UP = "rises"
    DOWN = "falls"
    OUTWARD = "leaves every value inside"
    """The goal that it raises is a straight line in it, and the policy climbs the same slope."""
    OPEN = "depends"


@dataclass(frozen=True)
class Learning:
    """A learned number of an objective.

    Attributes:
        minimises: whether it has a goal of its own, and no part in that of the policy.
        drift: what is proven of its steps.
    """

    number: Learned
    minimises: bool
    drift: Drift


def learning(objective: Objective) -> Iterator[Learning]:
    """The learned numbers that a gradient reaches, in the order of the file."""
    weights = weights_of(objective)
    for number in objective.learned:
        if number.column in weights:
            minimises = number.name in objective.minimising
            uphill = weights[number.column]
            yield Learning(number, minimises, _drift(number, uphill, minimises))


def _drift(number: Learned, uphill: n.Expr, minimises: bool) -> Drift:
    """Where a derivative leads, of what is maximised: minus what the number minimises."""
    low, high = bounds(uphill)
    if low >= 0 or high <= 0:
        return Drift.OPEN if uphill == ZERO else Drift.UP if low >= 0 else Drift.DOWN
    straight = number.column not in n.topological(uphill)
    policy = any(isinstance(x, n.LogProb | n.LogDist) for x in n.live_leaves(uphill))
    return Drift.OUTWARD if straight and policy and not minimises else Drift.OPEN
