"""What an objective does, in words: the output of `objdsl explain`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from objdsl.analysis.algebra.reductions import GROUP, PROMPTS, RESPONSES
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.advantage import Adds
from objdsl.analysis.gradient.divergence import Credit
from objdsl.analysis.gradient.estimator import Direction, Estimator
from objdsl.analysis.gradient.first_order import Reach
from objdsl.analysis.gradient.terms import Factor, Kind
from objdsl.analysis.values.dependence import Dependence, Level
from objdsl.analysis.values.learning import Drift
from objdsl.analysis.written import of_pairs
from objdsl.diagnostic import Claim, Diagnostic
from objdsl.frozen import dataclass
from objdsl.ir.declarations import Domain
from objdsl.ir.diff import Change, diff, renamed
from objdsl.ir.indices import Indices, decimal
from objdsl.ir.nodes import (
    Expr,
    Length,
    LogDist,
    LogProb,
    Peers,
    Position,
    Reduce,
    policies_in,
    topological,
)
from objdsl.ir.objective import Objective

_SIMILAR = 16
"""How many objectives of the gallery are compared line by line."""

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
_BESIDE = (
    Reason.UNREAD_PENALTY,
    Reason.WITHOUT_GRADIENT,
    Reason.LIVE_PENALTY,
    Reason.IDLE_BONUS,
    Reason.FLAT_BONUS,
    Reason.ENTROPY,
)
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
    """A gallery entry, and its differences from an objective: lines, and different names for the
    same."""

    name: str
    changes: tuple[Change, ...]
    renamed: Mapping[str, str]


def sections(facts: Facts, findings: Sequence[Diagnostic] | None = None) -> Iterator[Section]:
    """The parts of an explanation that have content.

    Args:
        findings: the checker's findings, including those that comments accept; without them, the
            claims are those from which the facts alone depart.
    """
    for estimator in facts.rewarded:
        weights = tuple(_weights(facts, estimator))
        if weights:  # none, of too large a formula or where nothing is common to all rewards
            yield Section("The reward is multiplied by", weights)
        yield Section("On policy", tuple(_on_policy(facts, estimator, findings or ())))
    if not facts.rewarded and facts.departures:
        reasons = dict.fromkeys(_reasons(facts, Claim.DIRECTION))
        if reasons:
            yield Section("On policy", tuple(("expected gradient", reason) for reason in reasons))
    if facts.penalties or facts.distribution_penalties or any(_reasons(facts, Claim.PENALTY)):
        yield Section("Penalties", tuple(_penalties(facts)))
    if facts.rewarded:
        yield Section("Off policy, to first order", tuple(_off_policy(facts)))
    remembered = tuple(_remembered(facts.objective))
    if remembered:
        yield Section("From rollout to rollout", remembered)
    if facts.learning:
        yield Section("Learned beside the policy", tuple(_learned(facts)))
    yield Section("What is exact, and what is not", tuple(_claims(facts, findings)))


def _learned(facts: Facts) -> Iterator[tuple[str, str]]:
    values = {param.name: param.default for param in facts.objective.used_params}
    for learned in facts.learning:
        number = learned.number
        goal = "minimises `minimize learn ...`" if learned.minimises else "raises J, as pi does"
        yield number.name, f"{goal}, from {decimal(number.start)}"
        if number.domain != Domain():
            yield "", f"put back into {number.domain} after each step of the optimizer"
        if learned.drift is not Drift.OPEN:
            yield "", f"{learned.drift.value} at every step, or at none"
        constant = decimal(values[number.name]) if number.name in values else "no part of it"
        yield "", f"to the expected gradient of pi a constant: {constant}"


def _remembered(objective: Objective) -> Iterator[tuple[str, str]]:
    for state in objective.states:
        of_prompt = bool(state.column.over)
        name = f"{state.name}[p]" if of_prompt else state.name
        what = "a number of the prompt" if of_prompt else "a constant of the rollout"
        yield name, f"{what}, known before its responses"
    read = policies_in(*objective.nodes)
    for policy in objective.policies:
        if policy.name in read and policy.every is not None:
            often = "each rollout" if policy.every == 1 else f"every {policy.every} rollouts"
            yield policy.name, f"a copy of pi, renewed after {often}: no gradient"
        elif policy.name in read and policy.decay is not None:
            yield policy.name, "an average of pi's weights, moved after each rollout: no gradient"


def _reasons(facts: Facts, claim: Claim) -> list[str]:
    return [departure.reason.value for departure in facts.departures if departure.claim is claim]


def _claims(facts: Facts, findings: Sequence[Diagnostic] | None) -> Iterator[tuple[str, str]]:
    """Each claim, and the rules that find that it does not hold exactly."""
    of_rewards = (Claim.DIRECTION, Claim.PROMPT_WEIGHTS, Claim.OFF_POLICY)
    for claim in Claim:
        if claim is not Claim.LANGUAGE:
            if findings is None:
                rules = dict.fromkeys(_reasons(facts, claim))
            else:
                of_claim = (finding for finding in findings if finding.claim is claim)
                rules = dict.fromkeys(f"{finding.name} ({finding.code})" for finding in of_claim)
            follows = facts.rewarded or claim not in of_rewards
            holds = "exact" if follows else "exact: no reward is followed"
            yield claim.phrase, ", ".join(rules) or holds


def nearest(objective: Objective, others: Iterable[Objective], most: int = 2) -> list[Relative]:
    """The objectives that differ least, by the number of lines of mathematics.

    Only those made of similar operators are compared line by line.
    """
    mine = _operators(objective)

    def distance(other: Objective) -> int:
        theirs = _operators(other)
        return (mine - theirs).total() + (theirs - mine).total()

    similar = sorted((x for x in others if x.name != objective.name), key=distance)[:_SIMILAR]
    pairs = [(other, diff(other, objective)) for other in similar]
    nearest = sorted(pairs, key=lambda pair: (len(pair[1]), pair[0].name))[:most]
    return [Relative(x.name, changes, renamed(x, objective)) for x, changes in nearest]


def _operators(objective: Objective) -> Counter[tuple[type[Expr], str, Indices]]:
    """How often an objective uses each operator, at each level."""
    nodes = topological(*objective.roots)
    return Counter((type(node), getattr(node, "op", ""), node.indices) for node in nodes)


def _weights(facts: Facts, estimator: Estimator) -> Iterator[tuple[str, str]]:
    """The factors that all rewarded products have, and what they depend on."""
    signals = estimator.signals
    if not signals:
        return
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
        parts = (meaning, _dependence(factor.depends))
        yield power + shown, ", ".join(part for part in parts if part)


def _named(facts: Facts, factor: Factor) -> str:
    """A factor as written in the file; for a mean, its divisor."""
    match factor.origin:
        case Reduce("mean") if factor.exponent < 0:
            return facts.written(factor.base)
    return facts.written(factor.origin)


def _has(factors: tuple[Factor, ...], factor: Factor) -> bool:
    return any(f.base == factor.base and f.exponent * factor.exponent > 0 for f in factors)


def _dependence(depends: Dependence) -> str:
    if depends.constant:
        return "a constant of the run"
    if depends.pooled:
        return "a statistic of the " + ("step" if depends.batch else "group") + " that holds it"
    if depends.on_response:
        return "changes with the response"
    if Level.PREFIX in depends.levels:
        return "changes with the tokens before"
    return "changes with the other responses" if Level.OTHERS in depends.levels else "of the prompt"


def _on_policy(
    facts: Facts, estimator: Estimator, findings: Sequence[Diagnostic]
) -> Iterator[tuple[str, str]]:
    """Where the expected gradient points, and what biases it: each line once, even if a factor has
    several parts."""
    yield from dict.fromkeys(_direction(facts, estimator, findings))


def _direction(
    facts: Facts, estimator: Estimator, findings: Sequence[Diagnostic]
) -> Iterator[tuple[str, str]]:
    direction = estimator.direction
    right = direction in (Direction.EXACT, Direction.REWEIGHTED, Direction.SHAPED)
    others = [finding for finding in findings if finding.claim is Claim.DIRECTION]
    beside = estimator.of(Kind.PENALTY) or any(isinstance(leaf, LogDist) for leaf in facts.weights)
    if right and not others and beside:
        yield "expected gradient", _DIRECTION[Direction.SHAPED]
    elif right and others and not estimator.of(Kind.SHAPING):
        yield "expected gradient", "not exactly that of the expected reward"
    else:
        yield "expected gradient", _DIRECTION[direction]
    if right:
        for finding in others:
            yield f"  {finding.name}", finding.message
    raised = facts.raises(estimator)
    if raised and direction is not Direction.UNKNOWN:
        yield "  raises", raised
    of_two = of_pairs(estimator, facts.names)
    if of_two:
        yield "  raises", f"{of_two}, of two independent responses"
    for bias in estimator.bias_factors:
        where = "divides the reward" if bias.factor.exponent < 0 else "multiplies the reward"
        where = where if bias.everywhere else "is part of the baseline"
        depends = _dependence(bias.factor.depends)
        yield f"  biased by {_named(facts, bias.factor)}", f"{where}: {depends}"
    for departure in facts.departures:
        factor = departure.factor if departure.claim is Claim.PROMPT_WEIGHTS else None
        if factor is not None and departure.estimator is estimator:
            yield f"  weighted by {_named(facts, factor)}", _dependence(factor.depends)
    yield from _assumed(facts)
    keep = facts.objective.keep
    if keep is not None and facts.departing(Reason.KEPT_PROMPTS):
        yield f"  kept where {facts.written(keep)}", Reason.KEPT_PROMPTS.value


def _assumed(facts: Facts) -> Iterator[tuple[str, str]]:
    """What is taken for true about the responses to a prompt, where statistics of some of them
    depend on it."""
    branch, goal = facts.objective.sampling.branch, topological(facts.objective.goal)
    pools = [node for node in goal if isinstance(node, Peers) and node.over[0] == "i"]
    if branch is not None:
        shares = "share the tokens of" if branch.of_tokens else "may share tokens of"
        yield "  given", f"responses {shares} the same {branch.name}, and no others"
    elif keys := [key for pool in pools for key in pool.keys if key.indices and key != Position()]:
        names = " and ".join(dict.fromkeys(map(facts.written, keys)))
        yield "  assumes", f"responses of the same {names} are drawn independently of each other"
        yield "", "where they share tokens, `sample from mu: branch ...` says so"


def _penalties(facts: Facts) -> Iterator[tuple[str, str]]:
    for penalty in (*facts.penalties, *facts.distribution_penalties):
        verb = "climbs" if penalty.away else "descends"
        weighed = facts.weighted(penalty)
        yield f"against {penalty.policy}", f"{verb} {penalty.descends.of(penalty.policy)}{weighed}"
        if weighed:
            yield "", "that changes with the response: it is not the gradient of the divergence"
        if _is_live(facts, penalty.policy):
            yield "", "beside it stands the gradient of the advantage itself: that of no divergence"
        yield "", _CREDIT[penalty.credit]
        yield "", f"its weight is {penalty.written} with X = log({penalty.policy} / pi)"
    for reason in _BESIDE:
        if facts.departing(reason):
            yield "a term beside the reward", reason.value


def _is_live(facts: Facts, policy: str) -> bool:
    """Whether an advantage that contains a penalty adds a gradient of its own."""
    nodes = (advantage.node for advantage in facts.live_advantages if advantage.adds is Adds.BIAS)
    return any(isinstance(x, LogProb) and x.policy == policy for x in topological(*nodes))


def _off_policy(facts: Facts) -> Iterator[tuple[str, str]]:
    order, sampler = facts.first_order, facts.objective.sampling.policy
    reasons = [gap.reason for gap in facts.departures if gap.claim is Claim.OFF_POLICY]
    if not facts.corrects:
        yield "the rollout", "stale, and not corrected" if reasons else "taken for that of pi"
    elif order is None:
        yield "the weight", "not judged: " + Reason.OTHER_WEIGHT.value
    elif Reason.FIRST_ORDER in reasons:
        for branch in order.branches:
            masks = [(facts.written(mask), holds) for mask, holds in branch.holds.items()]
            if masks:
                yield "where " + " and ".join(m if holds else f"not {m}" for m, holds in masks), ""
            yield "learned since the rollout, pi / old", _corrected(branch.drift)
            if sampler == "mu":
                yield "between the engines, old / mu", _corrected(branch.engine)
    else:
        exactly = "exactly" if not reasons else "near on policy"
        yield f"pi from {sampler}", f"corrected {exactly}, by the product over the response"
        for reason in reasons:
            yield "", reason.value


def _corrected(by: Mapping[Reach, float]) -> str:
    powers = [reach.value + _power(reach, power) for reach, power in by.items()]
    return f"corrected by {', and by '.join(powers)}" if powers else "not corrected"


def _power(reach: Reach, power: float) -> str:
    if math.isnan(power):
        plain = reach in (Reach.OTHER, Reach.KINK)
        return "" if plain else ", to a power that changes with the response"
    return f", to the power {power:g}" if power != 1 else ""
