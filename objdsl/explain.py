"""What an objective does, in words: what `objdsl explain` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from objdsl.analysis.advantage import Adds
from objdsl.analysis.dependence import Dependence, Level
from objdsl.analysis.divergence import Credit
from objdsl.analysis.estimator import Direction, Estimator, Factor, Kind
from objdsl.analysis.expand import GROUP, PROMPTS, RESPONSES
from objdsl.analysis.facts import Facts
from objdsl.analysis.first_order import FirstOrder, Reach
from objdsl.frozen import dataclass
from objdsl.ir.diff import Change, diff
from objdsl.ir.nodes import Length, LogDist, LogProb, Reduce, topological
from objdsl.ir.objective import Objective

_SIZES = {
    PROMPTS: ("P", "prompts of the step"),
    GROUP: ("G", "responses of the group"),
    RESPONSES: ("N", "responses of the step"),
    Length(): ("|y|", "tokens of the response"),
}
_DIRECTION = {
    Direction.EXACT: "that of the expected reward, times a constant: unbiased",
    Direction.REWEIGHTED: "that of the expected reward for each prompt; prompts weigh differently",
    Direction.BIASED: "not that of the expected reward",
    Direction.SHAPED: "that of the expected reward, and of what else the objective asks for",
    Direction.REVERSED: "away from higher rewards: the sign is turned",
    Direction.NONE: "no reward has a part in it",
    Direction.UNKNOWN: "too large a formula to say",
}
_CREDIT = {
    Credit.TOKEN: "state by state: the states that pi visits count as given",
    Credit.TO_GO: "of whole responses: a token answers for all that is to go",
    Credit.RESPONSE: "of whole responses: a token answers for all of its response",
}


@dataclass(frozen=True)
class Section:
    """A title, and lines of two columns; one column where the second is empty."""

    title: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Relative:
    """A gallery entry, and what an objective has otherwise."""

    name: str
    changes: tuple[Change, ...]


def sections(facts: Facts) -> Iterator[Section]:
    """The parts of an explanation, those that have something to say."""
    for estimator in facts.rewarded:
        if estimator.of(Kind.SIGNAL):  # none, of too large a formula
            yield Section("The reward is multiplied by", tuple(_weights(facts, estimator)))
        yield Section("On policy", tuple(_on_policy(facts, estimator)))
    if facts.penalties or facts.word_penalties:
        yield Section("Penalties", tuple(_penalties(facts)))
    if facts.first_order is not None:
        yield Section("Off policy, to first order", tuple(_off_policy(facts, facts.first_order)))


def nearest(objective: Objective, others: Iterable[Objective], most: int = 2) -> list[Relative]:
    """The objectives that differ least, by the number of lines of mathematics."""
    found = [Relative(other.name, diff(other, objective)) for other in others]
    found = [one for one in found if one.name != objective.name]
    return sorted(found, key=lambda one: (len(one.changes), one.name))[:most]


def _weights(facts: Facts, estimator: Estimator) -> Iterator[tuple[str, str]]:
    """The factors that all rewarded products have, and what they depend on."""
    signals = estimator.of(Kind.SIGNAL)
    first = max(signals, key=lambda term: abs(term.coefficient))
    shared = [
        f
        for f in first.factors
        if f.base not in estimator.bootstraps and all(_has(term.factors, f) for term in signals)
    ]
    for factor in sorted(shared, key=lambda f: (f.exponent < 0, not f.depends.constant)):
        name, meaning = _SIZES.get(factor.base, ("", ""))
        name = name or _named(facts, factor)
        whole = factor.base in _SIZES or name.startswith("(") or factor.exponent > 0
        shown = name if whole else f"({name})"
        power = "1 / " if factor.exponent < 0 else ""
        said = ", ".join(part for part in (meaning, _dependence(factor.depends)) if part)
        yield power + shown, said


def _named(facts: Facts, factor: Factor) -> str:
    """A factor as it stands in the file; of a mean, the divisor that it brings."""
    match factor.origin:
        case Reduce("mean") if factor.exponent < 0:
            return facts.written(factor.base)
    return facts.written(factor.origin)


def _has(factors: tuple[Factor, ...], factor: Factor) -> bool:
    return any(one.base == factor.base and one.exponent * factor.exponent > 0 for one in factors)


def _dependence(depends: Dependence) -> str:
    if depends.constant:
        return "a constant of the run"
    if depends.pooled:
        return "a statistic of the " + ("step" if depends.batch else "group") + " that holds it"
    if depends.own:
        return "changes with the response"
    if Level.PREFIX in depends.levels:
        return "changes with the tokens before"
    return "changes with the other responses" if Level.OTHERS in depends.levels else "of the prompt"


def _on_policy(facts: Facts, estimator: Estimator) -> Iterator[tuple[str, str]]:
    direction = estimator.direction
    words = any(isinstance(leaf, LogDist) for leaf in facts.weights)
    if words and direction is Direction.EXACT:
        direction = Direction.SHAPED
    yield "expected gradient", _DIRECTION[direction]
    for bend in estimator.bends:
        where = "divides the reward" if bend.factor.exponent < 0 else "multiplies the reward"
        where = where if bend.everywhere else "is part of the baseline"
        said = f"{where}: {_dependence(bend.factor.depends)}"
        yield f"  bent by {_named(facts, bend.factor)}", said
    for factor in estimator.prompt_weights:
        yield f"  weighted by {_named(facts, factor)}", _dependence(factor.depends)


def _penalties(facts: Facts) -> Iterator[tuple[str, str]]:
    for penalty in (*facts.penalties, *facts.word_penalties):
        verb = "climbs" if penalty.away else "descends"
        weighed = facts.weighed(penalty)
        yield f"against {penalty.policy}", f"{verb} {penalty.descends.of(penalty.policy)}{weighed}"
        if weighed:
            yield "", "that changes with the response: it is not the gradient of the divergence"
        if _is_live(facts, penalty.policy):
            yield "", "beside it stands the gradient of the advantage itself: that of no divergence"
        yield "", _CREDIT[penalty.credit]
        yield "", f"its weight is {penalty.written} with X = log({penalty.policy} / pi)"


def _is_live(facts: Facts, policy: str) -> bool:
    """Whether an advantage that holds a penalty adds a gradient of its own."""
    nodes = (one.node for one in facts.live_advantages if one.adds is Adds.BIAS)
    return any(isinstance(x, LogProb) and x.policy == policy for x in topological(*nodes))


def _off_policy(facts: Facts, order: FirstOrder) -> Iterator[tuple[str, str]]:
    if order.exact:
        yield "pi from mu", "corrected exactly, by the product over the response"
        return
    for branch in order.branches:
        masks = [(facts.written(mask), holds) for mask, holds in branch.holds.items()]
        if masks:
            yield "where " + " and ".join(m if holds else f"not {m}" for m, holds in masks), ""
        yield "learned since the rollout, pi / old", _corrected(branch.drift)
        if facts.objective.sampling.policy == "mu":
            yield "between the engines, old / mu", _corrected(branch.engine)


def _corrected(by: Mapping[Reach, float]) -> str:
    powers = [reach.value + _power(reach, power) for reach, power in by.items()]
    return f"corrected by {', and by '.join(powers)}" if powers else "not corrected"


def _power(reach: Reach, power: float) -> str:
    if math.isnan(power):
        plain = reach in (Reach.OTHER, Reach.KINK)
        return "" if plain else ", to a power that changes with the response"
    return f", to the power {power:g}" if power != 1 else ""
