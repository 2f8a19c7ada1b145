"""Where an objective departs from exact, claim by claim, and for which reason.

`check` and `explain` both speak from these departures. A reason belongs to one rule of the checker;
every factor that bends a gradient has a reason, the last one being that no other fits, so that no
bias is without a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, TooLargeError
from objdsl.analysis.algebra.symbols import OfPolicies
from objdsl.analysis.claims.shapes import (
    counts,
    discounts,
    inside_ratio,
    is_mask,
    is_score,
    live_product,
    reaches_some,
    spread,
)
from objdsl.analysis.gradient import bonuses
from objdsl.analysis.gradient.advantage import Adds, too_many
from objdsl.analysis.gradient.divergence import Credit, Descends, Penalty, unread
from objdsl.analysis.gradient.estimator import BiasFactor, Direction, Estimator
from objdsl.analysis.gradient.first_order import Order, Reach, reach
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.terms import Factor, Kind, Term
from objdsl.analysis.values.dependence import Level, depends
from objdsl.diagnostic import Claim
from objdsl.frozen import dataclass

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


class Reason(Enum):
    """Why a claim does not hold exactly."""

    # the direction on policy: a factor of all rewarded terms
    LENGTH = "the own length divides"
    GEOMETRIC = "the own length divides, in the derivative of a geometric mean"
    LENGTH_WEIGHT = "a function of the own length"
    GROUP_TOKENS = "the tokens of the group divide"
    STEP_TOKENS = "the tokens of the step divide"
    COUNT = "a number of elements that a mask leaves divides"
    GROUP_SPREAD = "how far the group's rewards lie apart divides"
    STEP_SPREAD = "how far the step's rewards lie apart divides"
    MASK = "a mask of the response"
    DISCOUNT = "a reward that comes with the last token is discounted"
    REACH = "a reward of a token does not reach the tokens up to it alike"
    SCORE = "log(pi) beside a weight with a gradient"
    RESPONSE = "another function of the response"
    # the direction on policy: a factor of a baseline
    BASELINE = "the baseline holds the own response"
    STEP_BASELINE = "the baseline is a statistic of the step that holds the own response"
    # the direction on policy: of the whole objective
    LIVE = "an advantage, a divisor or a small number beside a probability adds to the weight"
    CHOSEN = "prompts count by what their responses are"
    DOWN = "the sign is turned"
    MIXED = "several rewards are weighed apart from each other"
    NOTHING = "no reward has an effect"
    UNRAISED = "a reward is read, and nothing raises it"
    NO_REWARD = "no reward is recognised"
    SHAPING = "something else is raised beside the reward"
    BOOTSTRAP = "the return leans on the critic"
    INNER = "another policy samples than the one that is trained"
    TRUNCATED_SAMPLING = "words are drawn from a part of the vocabulary"
    WORDS = "rewards weigh whole distributions of words"
    TOO_LARGE = "too large a formula"
    # any claim
    NOT_JUDGED = "not judged"
    # how much each prompt counts
    KEPT_PROMPTS = "prompts count by how often they are kept"
    PROMPT_WEIGHT = "a factor of the prompt or of the other responses"
    # off policy
    STALE = "no ratio corrects for older weights"
    FIRST_ORDER = "the reward's weight is not the ratio of the response, to first order"
    OTHER_WEIGHT = "the weight changes with the policies in another way than by ratios"
    BOUNDED = "the ratio is cut where the policies are far apart"
    UNWEIGHTED = "what is subtracted from the reward is not weighted by the ratio"
    # what the terms beside the reward descend
    PENALTY = "not the KL of whole responses"
    UNREAD_PENALTY = "no function of the log-ratio alone"
    IDLE_BONUS = "a term of policies alone brings a number of the tokens before"
    FLAT_BONUS = "a term of log(pi) alone has no gradient but a number for each length"
    LIVE_PENALTY = "the advantage that holds a penalty adds a gradient of its own"
    WITHOUT_GRADIENT = "a frozen policy has no part in the gradient"
    ENTROPY = "a term of all words that is no divergence"

    @property
    def claim(self) -> Claim:
        """The claim that does not hold, but where the same reason weighs prompts alone."""
        return _CLAIMS.get(self, Claim.DIRECTION)


_CLAIMS = {
    **dict.fromkeys((Reason.KEPT_PROMPTS, Reason.PROMPT_WEIGHT), Claim.PROMPT_WEIGHTS),
    **dict.fromkeys(
        (
            Reason.STALE,
            Reason.FIRST_ORDER,
            Reason.OTHER_WEIGHT,
            Reason.BOUNDED,
            Reason.UNWEIGHTED,
        ),
        Claim.OFF_POLICY,
    ),
    **dict.fromkeys(
        (
            Reason.PENALTY,
            Reason.UNREAD_PENALTY,
            Reason.IDLE_BONUS,
            Reason.FLAT_BONUS,
            Reason.LIVE_PENALTY,
            Reason.WITHOUT_GRADIENT,
            Reason.ENTROPY,
        ),
        Claim.PENALTY,
    ),
}

# Those that small numbers, live advantages and divisors bring about by themselves are looked for
# without these (`Facts.meant`).
_MEANT = frozenset({Reason.MASK, Reason.RESPONSE, Reason.BASELINE, Reason.STEP_BASELINE})


@dataclass(frozen=True)
class Departure:
    """One reason why a claim does not hold exactly.

    Attributes:
        estimator: the weight that it is read from, if it is one of the weight.
        factor: the factor of the weight that is to blame, if it is one.
        everywhere: the factor weighs the reward itself, and not a baseline alone.
        penalty: the penalty, if it is one.
        node: the part that was not judged, and `why`, if it is for that.
    """

    claim: Claim
    reason: Reason
    estimator: Estimator | None = None
    factor: Factor | None = None
    everywhere: bool = True
    penalty: Penalty | None = None
    node: n.Expr | None = None
    why: str = ""


def departures(facts: Facts) -> Iterator[Departure]:
    """Everything that departs from exact: the direction, prompts, off policy, penalties."""
    yield from _direction(facts)
    yield from _prompts(facts)
    yield from ((Departure(reason.claim, reason)) for reason in _off_policy(facts))
    yield from _penalties(facts)
    yield from _not_judged(facts)


def departure(reason: Reason, estimator: Estimator | None = None) -> Departure:
    """The departure of a whole objective."""
    return Departure(reason.claim, reason, estimator)


# --- the direction on policy ---------------------------------------------------------------------


def _direction(facts: Facts) -> Iterator[Departure]:
    meant = {
        (bend.factor.base, bend.everywhere): (estimator, bend)
        for estimator in facts.meant
        for bend in estimator.bias_factors
    }
    for estimator in facts.rewarded:
        for bend in estimator.bias_factors:
            reason = reason_of(bend, estimator, facts)
            if reason in _MEANT and (bend.factor.base, bend.everywhere) not in meant:
                reason = Reason.LIVE
            if reason not in _MEANT:
                yield _bent(reason, estimator, bend)
        yield from _whole(estimator)
    for estimator, bend in meant.values():
        reason = reason_of(bend, estimator, facts)
        if reason in _MEANT:
            yield _bent(reason, estimator, bend)
    for estimator in facts.unpenalised:
        if estimator.of(Kind.SHAPING):
            yield departure(Reason.SHAPING, estimator)
    for estimator in facts.estimators:
        if estimator.direction is Direction.UNKNOWN:
            yield departure(Reason.TOO_LARGE, estimator)
    if facts.without_effect:
        yield departure(Reason.NOTHING)
    if facts.unraised:
        yield departure(Reason.UNRAISED)
    if facts.unjudged:
        yield departure(Reason.NO_REWARD)
    if facts.rewards_weigh_words:
        yield departure(Reason.WORDS)
    sampling = facts.objective.sampling
    truncated = sampling.top_p < 1 or sampling.top_k is not None
    if facts.rewarded and truncated and not sampling.keep_mask:
        yield departure(Reason.TRUNCATED_SAMPLING)


def _whole(estimator: Estimator) -> Iterator[Departure]:
    """What is said of the weight as a whole."""
    if estimator.lowered:
        yield departure(Reason.DOWN, estimator)
    for factor in estimator.mixing_factors:
        yield Departure(Claim.DIRECTION, Reason.MIXED, estimator, factor)
    if estimator.selection_biases:
        yield departure(Reason.CHOSEN, estimator)
    if estimator.bootstraps:
        yield departure(Reason.BOOTSTRAP, estimator)
    if estimator.leaf.policy != "pi":
        yield departure(Reason.INNER, estimator)


def _bent(reason: Reason, estimator: Estimator, bend: BiasFactor) -> Departure:
    return Departure(Claim.DIRECTION, reason, estimator, bend.factor, bend.everywhere)


def reason_of(bend: BiasFactor, estimator: Estimator, facts: Facts) -> Reason:
    """The reason for which a factor bends the gradient."""
    factor, below = bend.factor, bend.factor.exponent < 0
    if is_mask(factor.base):
        return Reason.MASK
    if reaches_some(factor.base):
        return Reason.REACH
    if not bend.everywhere:
        return _of_baseline(factor, estimator, facts)
    if factor.depends.reads == {"|y|"}:
        return _of_length(factor, facts)
    if below and counts(factor.base):
        return Reason.COUNT
    if discounts(factor.base):
        return Reason.DISCOUNT
    if is_score(factor.base, estimator.leaf) and live_product(facts, estimator.leaf):
        return Reason.SCORE
    if below and spread(estimator, factor):
        return Reason.STEP_SPREAD if factor.depends.batch else Reason.GROUP_SPREAD
    return Reason.RESPONSE


def _of_length(factor: Factor, facts: Facts) -> Reason:
    if factor.base == n.Length() and factor.exponent == -1:
        inside = inside_ratio(facts, factor.origin)
        return Reason.GEOMETRIC if inside else Reason.LENGTH
    if factor.exponent < 0 and Level.OTHERS in factor.depends.levels:
        return Reason.STEP_TOKENS if factor.depends.batch else Reason.GROUP_TOKENS
    return Reason.LENGTH_WEIGHT


def _of_baseline(factor: Factor, estimator: Estimator, facts: Facts) -> Reason:
    if factor.exponent < 0 and counts(factor.base):
        return Reason.COUNT
    # Where the reward is discounted, so are the values.
    bases = [bend.factor.base for bend in estimator.bias_factors]
    discounted = any(discounts(base) or reaches_some(base) for base in bases)
    if discounts(factor.base) or (discounted and isinstance(factor.base, n.Scan)):
        return Reason.DISCOUNT
    if factor.base == estimator.leaf and factor.base in facts.passing:
        return Reason.SCORE
    return Reason.STEP_BASELINE if factor.depends.batch else Reason.BASELINE


# --- how much each prompt counts -----------------------------------------------------------------


def _prompts(facts: Facts) -> Iterator[Departure]:
    for estimator in facts.rewarded:
        bent = {bend.factor.base for bend in estimator.bias_factors}
        for factor in estimator.prompt_weights:
            if factor.base in bent or (factor.base in estimator.keep_factors and _keeps(facts)):
                continue
            if factor.base in estimator.counts_of_others:
                reason = Reason.COUNT
            elif factor.exponent < 0 and spread(estimator, factor) and not factor.depends.batch:
                reason = Reason.GROUP_SPREAD
            else:
                reason = Reason.PROMPT_WEIGHT
            yield Departure(Claim.PROMPT_WEIGHTS, reason, estimator, factor)
    if _keeps(facts) and facts.rewarded and not any(one.selection_biases for one in facts.rewarded):
        yield departure(Reason.KEPT_PROMPTS)


def _keeps(facts: Facts) -> bool:
    """Whether prompts are kept by what their responses are."""
    return facts.objective.keep is not None and depends(facts.objective.keep).own


# --- off policy ----------------------------------------------------------------------------------


def _off_policy(facts: Facts) -> Iterator[Reason]:
    if not facts.rewarded:
        return
    if not facts.corrects:
        sampling = facts.objective.sampling
        if sampling.staleness or sampling.policy not in ("pi", "old", "mu"):
            yield Reason.STALE
        return
    order = facts.first_order
    if order is None:
        yield Reason.OTHER_WEIGHT
    elif order.kinks or not all(_whole_ratio(facts, branch) for branch in order.branches):
        yield Reason.FIRST_ORDER
    else:
        far = facts.far
        if any(far.expanded is None or _cut(far, term) for term in far.of(Kind.SIGNAL)):
            yield Reason.BOUNDED
        elif any(not _weighted(far, term) for term in far.of(Kind.BASELINE)):
            yield Reason.UNWEIGHTED


def _whole_ratio(facts: Facts, branch: Order) -> bool:
    """Whether the weight is the ratio of the response, to first order."""
    whole = {Reach.SEQUENCE: 1.0}
    engine = branch.engine == whole or facts.objective.sampling.policy != "mu"
    return branch.drift == whole and engine


def _cut(far: Estimator, term: Term) -> bool:
    """Whether a product holds the policies otherwise than as ratios."""
    return any(_reads_policy(f.base) and not _ratio(far, f) for f in term.factors)


def _weighted(far: Estimator, term: Term) -> bool:
    """Whether a baseline is weighted by a ratio that holds that of its own token, and of those
    before: its expectation under the sampler is then 0."""
    reaches: set[Reach] = set()
    for factor in term.factors:
        if factor.depends.own and _reads_policy(factor.base):
            found = _ratio(far, factor)
            if not found:
                return False
            reaches |= found
    own = {Reach.SEQUENCE}, {Reach.PREFIX}, {Reach.BEFORE, Reach.TOKEN}
    return reaches in own


def _ratio(far: Estimator, factor: Factor) -> set[Reach]:
    try:
        return reach(Sum({frozenset({(factor.base, factor.exponent)}): 1.0}), far.expand)
    except TooLargeError:
        return set()


def _reads_policy(x: n.Expr) -> bool:
    return any(isinstance(node, OfPolicies) for node in n.topological(x))


# --- penalties -----------------------------------------------------------------------------------


def _penalties(facts: Facts) -> Iterator[Departure]:
    for penalty in (*facts.penalties, *facts.word_penalties):
        if not _exact(penalty, facts):
            yield Departure(Claim.PENALTY, Reason.PENALTY, penalty=penalty)
    # Where scores of responses pass through a link, the frozen policy is a part of these.
    if not facts.links and any(unread(one) for one in (*facts.estimators, *facts.by_words)):
        yield departure(Reason.UNREAD_PENALTY)
    if facts.of_entropy:
        yield departure(Reason.ENTROPY)
    if facts.bonuses:
        yield departure(Reason.FLAT_BONUS)
    penalised = frozen(facts.objective)
    live = n.topological(*(one.node for one in facts.live_advantages if one.adds is Adds.BIAS))
    if any(isinstance(x, n.LogProb | n.LogDist) and x.policy in penalised for x in live):
        yield departure(Reason.LIVE_PENALTY)
    weights = n.topological(*facts.weights.values())
    read = {node.policy for node in weights if isinstance(node, n.LogProb | n.LogDist)}
    goal = n.topological(facts.objective.goal)
    named = {node.policy for node in goal if isinstance(node, n.LogProb | n.LogDist)}
    without = any(policy in named and policy not in read for policy in penalised)
    if without or any(one.policies for one in facts.idle):
        yield departure(Reason.WITHOUT_GRADIENT)
    if any(not one.policies for one in facts.idle):
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


# --- what was given up ---------------------------------------------------------------------------


def _not_judged(facts: Facts) -> Iterator[Departure]:
    """What the analyses leave aside, once for each claim and part."""
    goal = facts.objective.goal
    if any(one.direction is Direction.UNKNOWN for one in facts.estimators):
        yield _aside(Claim.PROMPT_WEIGHTS, goal, "the weight has more terms than are read")
        yield _aside(Claim.OFF_POLICY, goal, "the weight has more terms than are read")
        if frozen(facts.objective):
            yield _aside(Claim.PENALTY, goal, "the weight has more terms than are read")
    elif facts.rewarded and not (facts.meant and facts.unpenalised):
        yield _aside(Claim.DIRECTION, goal, "without its penalties the weight cannot be read")
    if too_many(goal):
        yield _aside(
            Claim.DIRECTION, goal, "more advantages and divisors carry a gradient than are read"
        )
    if facts.rewarded and bonuses.too_many(facts.objective):
        yield _aside(
            Claim.PENALTY, goal, "the sum has more terms of log-probabilities than are read"
        )
    if facts.ranges and facts.extremes.gave_up:
        yield _aside(Claim.NUMERICS, goal, "the formula has more conditions than are read")
    for link in facts.links:
        if not link.slopes:
            yield _aside(Claim.DIRECTION, link.node, "the score has more terms than are read")
            break
    yield from _parts_not_judged(facts)


def _parts_not_judged(facts: Facts) -> Iterator[Departure]:
    """Parts of the goal that multiply out to more than is read: what is said of clips, bounds,
    divisors and squares is then said of the others alone."""
    why = "it multiplies out to more terms than are read"
    seen: set[Claim] = set()
    for node in n.topological(facts.objective.goal):
        claim, parts = _asked(node)
        if claim is None or claim in seen:
            continue
        if any(_unread(part, expand) for part in parts for expand in facts.expansions):
            seen.add(claim)
            yield _aside(claim, node, why)


def _asked(node: n.Expr) -> tuple[Claim | None, tuple[n.Expr, ...]]:
    """What the rules ask of a node, and the parts that they read for it."""
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


def _aside(claim: Claim, node: n.Expr, why: str) -> Departure:
    return Departure(claim, Reason.NOT_JUDGED, node=node, why=why)
