"""Everything that is known of one objective: each fact is computed once, when it is first read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum
from objdsl.analysis.claims.departures import departures
from objdsl.analysis.claims.reasons import Departure, Reason
from objdsl.analysis.estimates import Estimates
from objdsl.analysis.gradient.advantage import (
    Adds,
    LiveAdvantage,
    LiveDivisor,
    live_advantages,
    live_divisors,
)
from objdsl.analysis.gradient.bonuses import bonuses
from objdsl.analysis.gradient.divergence import Penalty
from objdsl.analysis.gradient.effect import own_rewards, reads_sampling_ratio, weighs_distribution
from objdsl.analysis.gradient.estimator import Direction, Estimator
from objdsl.analysis.gradient.first_order import FirstOrder, first_order
from objdsl.analysis.gradient.idle import Idle, idle
from objdsl.analysis.gradient.links import Link, links
from objdsl.analysis.gradient.policies import frozen
from objdsl.analysis.gradient.signal import candidates, samples, signal, with_reward
from objdsl.analysis.gradient.terms import Factor, powers
from objdsl.analysis.values.dependence import is_reward
from objdsl.analysis.values.epsilons import Epsilon, epsilons
from objdsl.analysis.values.extremes import Extremes
from objdsl.analysis.values.frozen_states import with_frozen_states
from objdsl.analysis.values.learning import Learning, learning
from objdsl.analysis.values.ranges import Range
from objdsl.analysis.values.reach import reached
from objdsl.analysis.written import expectation, written
from objdsl.diagnostic import Claim
from objdsl.frozen import dataclass
from objdsl.ir.interval import Interval
from objdsl.ir.objective import Objective
from objdsl.ir.writer import Names, names_of


@dataclass(frozen=True)
class Facts(Estimates):
    """An objective, its gradient weights, and the results of the analyses.

    Attributes:
        written_as: the objective before what is constant in a rollout became parameters.
    """

    written_as: Objective | None = None

    @cached_property
    def learning(self) -> tuple[Learning, ...]:
        """The numbers that are learned beside the policy."""
        return tuple(learning(self.written_as or self.objective))

    @cached_property
    def departures(self) -> tuple[Departure, ...]:
        """Where the objective departs from exact, and why."""
        return tuple(departures(self))

    def departs(self, claim: Claim) -> bool:
        """Whether a claim does not hold exactly."""
        return any(departure.claim is claim for departure in self.departures)

    def departing(self, *reasons: Reason) -> list[Departure]:
        """The departures for some of the reasons."""
        return [departure for departure in self.departures if departure.reason in reasons]

    def factors(self, *reasons: Reason) -> Iterator[tuple[Estimator, Factor]]:
        """The factors that are to blame for some of the reasons, each with its weight."""
        for departure in self.departing(*reasons):
            if departure.estimator is not None and departure.factor is not None:
                yield departure.estimator, departure.factor

    @cached_property
    def reward(self) -> n.Expr | None:
        """A reward that the goal reads."""
        return next(filter(is_reward, n.topological(self.objective.goal)), None)

    @cached_property
    def reward_in_weights(self) -> bool:
        return any(map(is_reward, n.topological(*self.weights.values())))

    @cached_property
    def without_effect(self) -> bool:
        """Whether the goal reads a reward that does not affect the gradient, on policy."""
        if self.reward is None or any(divisor.cancels for divisor in self.live_divisors):
            return False
        if not self.reward_in_weights:
            return True
        others = [w for leaf, w in self.weights.items() if not isinstance(leaf, n.LogProb)]
        factors = (f for each in self.estimators for term in each.terms for f in term.factors)
        return (
            bool(self.estimators)
            and not any(map(is_reward, n.topological(*others)))
            and all(each.direction is Direction.NONE for each in self.estimators)
            and not any(factor.depends.rewards and factor.depends.on_response for factor in factors)
        )

    def raises(self, estimator: Estimator) -> str:
        """`E[0.8 correct + 0.2 format]`: the declared rewards with the constants that the file
        gives them; empty where there are none, or the built-in one alone."""
        return expectation(estimator)

    @cached_property
    def unraised(self) -> tuple[n.Column, ...]:
        """The rewards, of several, that the goal reads and no weight raises or lowers."""
        if not self.rewarded or len(self.objective.rewards) < 2:
            return ()
        terms = (t for each in (*self.estimators, *self.by_distributions) for t in each.terms)
        followed = own_rewards(terms)
        goal = n.topological(self.objective.goal)
        return tuple(x for x in self.objective.rewards if x in goal and x.name not in followed)

    @cached_property
    def samples(self) -> bool:
        """Whether responses are drawn from a version of the policy, rather than given with the
        data."""
        return samples(self.objective)

    @cached_property
    def perhaps_rewards(self) -> tuple[n.Column, ...]:
        """The declared columns that may be rewards, if none is recognised."""
        return candidates(self.objective)

    @cached_property
    def unjudged(self) -> bool:
        """Whether neither a reward is recognised, nor anything else that rules judge: preferences
        or penalties."""
        if self.objective.rewards or not self.weights or self.links:
            return False
        return bool(self.perhaps_rewards) or not (self.penalties or self.distribution_penalties)

    @cached_property
    def rewards_weigh_distributions(self) -> bool:
        """Whether a reward weights the gradient of whole distributions, which is not judged."""
        return any(map(weighs_distribution, self.by_distributions))

    @cached_property
    def idle(self) -> tuple[Idle, ...]:
        """The summands of policies alone whose weight has no expectation."""
        return tuple(idle(self.objective, self.weights, self.estimators)) if self.rewarded else ()

    @cached_property
    def bonuses(self) -> tuple[tuple[n.Expr, Estimator], ...]:
        """The terms of log-probabilities alone, beside rewards, each with its weight."""
        if not self.rewarded:
            return ()
        return tuple(bonuses(self.objective, self.rewarded, self.near_policy))

    @cached_property
    def live_advantages(self) -> tuple[LiveAdvantage, ...]:
        """The advantages whose own gradient adds unintended parts to the weights."""
        return tuple(live_advantages(self.objective, self.weights, self.on_policy))

    @cached_property
    def live_divisors(self) -> tuple[LiveDivisor, ...]:
        """The divisors whose own gradient biases what was intended."""
        return tuple(live_divisors(self.objective, self.weights, self.estimators))

    @cached_property
    def epsilons(self) -> tuple[Epsilon, ...]:
        """The small numbers beside probabilities."""
        params = {param.name: param.default for param in self.objective.params}
        return tuple(epsilons(self.objective.goal, params))

    @cached_property
    def intended(self) -> tuple[Estimator, ...]:
        """`rewarded` as if advantages and divisors had no gradient, and without small numbers
        beside probabilities: these have findings of their own, and otherwise look like baselines,
        masks and weights that nobody wrote."""
        live = [each.node for each in self.live_advantages if each.adds is Adds.BIAS]
        live += [each.node for each in self.live_divisors]
        instead: dict[n.Expr, n.Expr] = {node: n.Stop(node) for node in live}
        instead |= {epsilon.node: epsilon.without for epsilon in self.epsilons}
        if not instead:
            return self.rewarded
        goal = n.replaced(self.objective.goal, instead)
        return Facts(replace(self.objective, goal=goal)).rewarded

    @cached_property
    def unpenalised(self) -> tuple[Estimator, ...]:
        """`rewarded`, as if every frozen policy were the trained one: without penalties, and
        without the constants that they leave."""
        policies = set(frozen(self.objective))
        trained: dict[n.Expr, n.Expr] = {
            node: n.Stop(type(node)("pi", True))
            for node in n.topological(self.objective.goal)
            if isinstance(node, n.LogProb | n.LogDist) and node.policy in policies
        }
        if not trained:
            return self.rewarded
        goal = n.replaced(self.objective.goal, trained)
        return Facts(replace(self.objective, goal=goal)).rewarded

    @cached_property
    def passing(self) -> tuple[n.Expr, ...]:
        """The values that pass a gradient on to the goal, and are not behind a stop-gradient."""
        return tuple(reached(self.objective.goal, live=True, rewarded=False))

    @cached_property
    def extremes(self) -> Extremes:
        """How large and how small values become in float32."""
        return Extremes(self.objective)

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """How large and how small the weights and the goal become in float32."""
        return tuple(self.extremes(x) for x in (*self.weights.values(), self.objective.goal))

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The functions that scores of responses are passed through."""
        return links(self.objective)

    @cached_property
    def first_order(self) -> FirstOrder | None:
        """Which mismatch of policies the weight of the reward corrects."""
        return first_order(self.rewarded[0]) if self.rewarded else None

    @cached_property
    def corrects(self) -> bool:
        """Whether the goal has a ratio of the policy to the one that sampled, in a term with
        rewards: it is meant for responses of older weights."""
        return reads_sampling_ratio(self.objective.goal, set(self.on_policy.same))

    @cached_property
    def names(self) -> Names:
        return names_of(self.objective.bindings)

    def written(self, expr: n.Expr) -> str:
        """A formula in readable form, with the names of the file."""
        return written(expr, self.names)

    def weighted(self, penalty: Penalty) -> str:
        """`, weighted by 1 / |y|`: the factors of a penalty that change with the response; empty
        where there are none."""
        factors = powers(penalty.bias_factors)
        return f", weighted by {self.written(Sum({factors: 1.0}).expr())}" if factors else ""


def facts_of(
    objective: Objective, step: int | None = None, around: Interval | None = None
) -> Facts:
    """The facts of an objective while a rollout is learned from, in which a column that can only be
    the reward need not be declared as one.

    Args:
        step: of the rollout.
        around: the steps between which the objective is the same.
    """
    constant = with_frozen_states(objective, step, around)
    column = signal(constant)
    return Facts(constant if column is None else with_reward(constant, column), objective)
