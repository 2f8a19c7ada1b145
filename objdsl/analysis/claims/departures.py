"""Where an objective departs from exact, claim by claim, and for which reason.

`check` and `explain` both speak from these departures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from objdsl.analysis.claims.bias import reason_of
from objdsl.analysis.claims.not_judged import not_judged
from objdsl.analysis.claims.off_policy import off_policy
from objdsl.analysis.claims.penalties import penalties
from objdsl.analysis.claims.reasons import Departure, Reason, departure
from objdsl.analysis.claims.shapes import measures_dispersion
from objdsl.analysis.gradient.estimator import BiasFactor, Direction, Estimator
from objdsl.analysis.gradient.terms import Kind
from objdsl.analysis.values.dependence import depends
from objdsl.diagnostic import Claim

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts

# Small numbers beside probabilities, and advantages and divisors with a gradient, bring these about
# by themselves: they are looked for in the weights without such (`Facts.intended`).
_MEANT = frozenset({Reason.MASK, Reason.RESPONSE, Reason.BASELINE, Reason.STEP_BASELINE})


def departures(facts: Facts) -> Iterator[Departure]:
    """Everything that departs from exact: the direction, prompts, off policy, penalties."""
    yield from _direction(facts)
    yield from _prompts(facts)
    yield from map(departure, off_policy(facts))
    yield from penalties(facts)
    yield from not_judged(facts)


# --- the direction on policy ---------------------------------------------------------------------


def _direction(facts: Facts) -> Iterator[Departure]:
    meant = {
        (bias.factor.base, bias.everywhere): (estimator, bias)
        for estimator in facts.intended
        for bias in estimator.bias_factors
    }
    for estimator in facts.rewarded:
        for bias in estimator.bias_factors:
            reason = reason_of(bias, estimator, facts)
            if reason in _MEANT and (bias.factor.base, bias.everywhere) not in meant:
                reason = Reason.LIVE
            if reason not in _MEANT:
                yield _biased(reason, estimator, bias)
        yield from _whole(estimator)
    for estimator, bias in meant.values():
        reason = reason_of(bias, estimator, facts)
        if reason in _MEANT:
            yield _biased(reason, estimator, bias)
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
    if facts.rewards_weigh_distributions:
        yield departure(Reason.DISTRIBUTIONS)
    sampling = facts.objective.sampling
    truncated = sampling.top_p < 1 or sampling.top_k is not None
    if facts.rewarded and truncated and not sampling.keep_mask:
        yield departure(Reason.TRUNCATED_SAMPLING)


def _whole(estimator: Estimator) -> Iterator[Departure]:
    """Departures of a weight as a whole."""
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


def _biased(reason: Reason, estimator: Estimator, bias: BiasFactor) -> Departure:
    return Departure(Claim.DIRECTION, reason, estimator, bias.factor, bias.everywhere)


# --- how much each prompt counts -----------------------------------------------------------------


def _prompts(facts: Facts) -> Iterator[Departure]:
    for estimator in facts.rewarded:
        biased = {bias.factor.base for bias in estimator.bias_factors}
        for factor in estimator.prompt_weights:
            if factor.base in biased or (factor.base in estimator.keep_factors and _keeps(facts)):
                continue
            if factor.base in estimator.counts_of_others:
                reason = Reason.COUNT
            elif (
                factor.exponent < 0
                and measures_dispersion(estimator, factor)
                and not factor.depends.batch
            ):
                reason = Reason.GROUP_DISPERSION
            else:
                reason = Reason.PROMPT_WEIGHT
            yield Departure(Claim.PROMPT_WEIGHTS, reason, estimator, factor)
    if _keeps(facts) and facts.rewarded and not any(e.selection_biases for e in facts.rewarded):
        yield departure(Reason.KEPT_PROMPTS)


def _keeps(facts: Facts) -> bool:
    """Whether prompts are kept depending on their responses."""
    return facts.objective.keep is not None and depends(facts.objective.keep).on_response
