"""Everything that is known of one objective: each fact is worked out once, when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum
from objdsl.analysis.algebra.symbols import Elsewhere, LogDistRatio, LogRatio
from objdsl.analysis.claims.departures import Departure, Reason, departures
from objdsl.analysis.gradient.advantage import (
    Adds,
    LiveAdvantage,
    LiveDivisor,
    live_advantages,
    live_divisors,
)
from objdsl.analysis.gradient.bonuses import bonuses
from objdsl.analysis.gradient.divergence import Penalty, penalties
from objdsl.analysis.gradient.estimator import Direction, Estimator
from objdsl.analysis.gradient.first_order import FirstOrder, first_order
from objdsl.analysis.gradient.idle import Idle, idle
from objdsl.analysis.gradient.links import Link, links
from objdsl.analysis.gradient.policies import far_policy, frozen, near_policy, on_policy
from objdsl.analysis.gradient.signal import candidates, samples, signal, with_reward
from objdsl.analysis.gradient.terms import Factor, Kind
from objdsl.analysis.values.dependence import is_reward
from objdsl.analysis.values.epsilons import Epsilon, epsilons
from objdsl.analysis.values.extremes import Extremes, Range
from objdsl.analysis.values.reach import reached
from objdsl.diagnostic import Claim
from objdsl.frozen import dataclass
from objdsl.ir.build import div, sub
from objdsl.ir.differentiate import Leaf, weights_of
from objdsl.ir.indices import TOKEN
from objdsl.ir.objective import Objective
from objdsl.ir.text import text
from objdsl.ir.writer import Names, names_of

_NOT_REWARDED = (Direction.NONE, Direction.UNKNOWN)


@dataclass(frozen=True)
class Facts:
    """An objective, its gradient weights, and what the analyses say of them.

    Attributes:
        objective: the formula, at its parameters' defaults.
    """

    objective: Objective

    @cached_property
    def weights(self) -> dict[Leaf, n.Expr]:
        """The derivative of what is maximised (J minus the critic's loss) by each trained leaf."""
        return weights_of(self.objective)

    @cached_property
    def policy_weights(self) -> dict[n.LogProb, n.Expr]:
        """Of them, those by the log-probability of the sampled token: `w = dJ / dlog pi`."""
        return {leaf: w for leaf, w in self.weights.items() if isinstance(leaf, n.LogProb)}

    @cached_property
    def estimators(self) -> tuple[Estimator, ...]:
        """What `policy_weights` estimate, on policy: one for `pi`, and for each inner policy."""
        weights = self.policy_weights.items()
        return tuple(Estimator(self.objective, leaf, w, self.on_policy) for leaf, w in weights)

    @cached_property
    def on_policy(self) -> Expand:
        """Formulas as sums of products, where all versions of the policy are one."""
        return on_policy(self.objective)

    @cached_property
    def near_policy(self) -> Expand:
        """The same with the versions apart, in a neighbourhood."""
        return near_policy(self.objective, self.on_policy)

    @cached_property
    def rewarded(self) -> tuple[Estimator, ...]:
        """Those of them that follow rewards at all."""
        return tuple(e for e in self.estimators if e.direction not in _NOT_REWARDED)

    @cached_property
    def near(self) -> tuple[Estimator, ...]:
        """The same with the policies apart."""
        return tuple(replace(one, expand=self.near_policy) for one in self.rewarded)

    @cached_property
    def penalties(self) -> tuple[Penalty, ...]:
        """What the frozen policies bring by the sampled tokens."""
        return tuple(penalty for one in self.estimators for penalty in penalties(one))

    @cached_property
    def word_penalties(self) -> tuple[Penalty, ...]:
        """The same by all words of the next token. `sum_v pi_v g_v grad log pi_v` is what `g` of a
        sampled token is on average."""
        return tuple(penalty for words in self.by_words for penalty in penalties(words))

    @cached_property
    def by_words(self) -> tuple[Estimator, ...]:
        """What the weights by all words estimate, written as weights of a sampled token."""
        return tuple(
            Estimator(self.objective, leaf, div(w, n.Unary("exp", leaf)), self.on_policy)
            for leaf, w in self.weights.items()
            if isinstance(leaf, n.LogDist)
        )

    @cached_property
    def departures(self) -> tuple[Departure, ...]:
        """Where the objective departs from exact, and why."""
        return tuple(departures(self))

    def departs(self, claim: Claim) -> bool:
        """Whether a claim does not hold exactly."""
        return any(one.claim is claim for one in self.departures)

    def departing(self, *reasons: Reason) -> list[Departure]:
        """The departures for some of the reasons."""
        return [one for one in self.departures if one.reason in reasons]

    def factors(self, *reasons: Reason) -> Iterator[tuple[Estimator, Factor]]:
        """The factors that are to blame for some of the reasons, each with its weight."""
        for one in self.departing(*reasons):
            if one.estimator is not None and one.factor is not None:
                yield one.estimator, one.factor

    @cached_property
    def far(self) -> Estimator:
        """What the first rewarded weight is, whatever the policies are."""
        return replace(self.rewarded[0], expand=far_policy(self.objective))

    @cached_property
    def reward(self) -> n.Expr | None:
        """A reward that the goal reads."""
        return next(filter(is_reward, n.topological(self.objective.goal)), None)

    @cached_property
    def reward_in_weights(self) -> bool:
        return any(map(is_reward, n.topological(*self.weights.values())))

    @cached_property
    def without_effect(self) -> bool:
        """Whether the goal reads a reward that has no part in the gradient, on policy."""
        if self.reward is None or any(one.cancels for one in self.live_divisors):
            return False
        if not self.reward_in_weights:
            return True
        others = [w for leaf, w in self.weights.items() if not isinstance(leaf, n.LogProb)]
        factors = (f for one in self.estimators for term in one.terms for f in term.factors)
        return (
            bool(self.estimators)
            and not any(map(is_reward, n.topological(*others)))
            and all(one.direction is Direction.NONE for one in self.estimators)
            and not any(factor.depends.rewards and factor.depends.own for factor in factors)
        )

    def raises(self, estimator: Estimator) -> str:
        """`E[0.8 correct + 0.2 format]`: the declared rewards with the constants that the file
        gives them; empty where there are none, or the built-in one alone."""
        constants = estimator.raised
        judged = estimator.mixing_factors or estimator.selection_biases or estimator.bias_factors
        if judged or not constants or [x.name for x in constants] == ["reward"]:
            return ""
        scale = self._scale(constants, estimator)
        parts: list[str] = []
        for column, c in constants.items():
            name = f"sum[t] {column.name}" if column.over == TOKEN else column.name
            size = f"{abs(c) * scale:.3g}"
            sign = ("- " if parts else "-") if c < 0 else "+ " if parts else ""
            parts.append(sign + (name if size == "1" else f"{size} {name}"))
        return f"E[{' '.join(parts)}]"

    def _scale(self, constants: dict[n.Column, float], estimator: Estimator) -> float:
        """By which constants become those of the sum of rewards that the file writes, if it writes
        one; else the largest becomes 1."""
        for node in n.topological(self.objective.goal):
            if isinstance(node, n.Binary) and node.op in ("add", "sub"):
                scale = estimator.scale_of(node, constants)
                if scale is not None:
                    return scale
        return 1 / max(map(abs, constants.values()))

    @cached_property
    def unraised(self) -> tuple[n.Column, ...]:
        """Of several rewards, those that the goal reads and no weight raises or lowers."""
        if not self.rewarded or len(self.objective.rewards) < 2:
            return ()
        terms = [term for one in (*self.estimators, *self.by_words) for term in one.terms]
        own = {term.reward.name for term in terms if term.reward is not None}
        own |= {
            name
            for term in terms
            for factor in term.factors
            if factor.depends.own and not factor.depends.pooled
            for name in factor.depends.rewards
        }
        goal = n.topological(self.objective.goal)
        return tuple(x for x in self.objective.rewards if x in goal and x.name not in own)

    @cached_property
    def samples(self) -> bool:
        """Whether responses are drawn from a version of the policy, and not given with the data."""
        return samples(self.objective)

    @cached_property
    def perhaps_rewards(self) -> tuple[n.Column, ...]:
        """The declared columns that may be rewards, where none is recognised."""
        return candidates(self.objective)

    @cached_property
    def unjudged(self) -> bool:
        """Whether no reward is recognised, and nothing else either that rules judge: preferences,
        or penalties."""
        if self.objective.rewards or not self.weights or self.links:
            return False
        return bool(self.perhaps_rewards) or not (self.penalties or self.word_penalties)

    @cached_property
    def rewards_weigh_words(self) -> bool:
        """Whether a reward weighs the gradient of whole distributions, which is not read."""
        # What is the same for all words has no gradient: `sum_v pi_v grad log pi_v = 0`.
        terms = [
            term
            for words in self.by_words
            for term in words.terms
            if any("v" in factor.base.indices for factor in term.factors)
        ]
        return any(
            term.reward is not None
            or any(
                f.exponent > 0 and f.depends.rewards and not f.base.boolean for f in term.factors
            )
            for term in terms
        )

    @cached_property
    def idle(self) -> tuple[Idle, ...]:
        """The summands of policies alone that bring a weight without an expectation."""
        return tuple(idle(self.objective, self.weights, self.estimators)) if self.rewarded else ()

    @cached_property
    def bonuses(self) -> tuple[tuple[n.Expr, Estimator], ...]:
        """The terms of log-probabilities alone, beside rewards, each with the weight it brings."""
        if not self.rewarded:
            return ()
        return tuple(bonuses(self.objective, self.rewarded, self.near_policy))

    @cached_property
    def expansions(self) -> tuple[Expand, ...]:
        """How formulas are read: on policy, near it, and wherever the policies are."""
        far = (self.far.expand,) if self.rewarded else ()
        return self.on_policy, self.near_policy, *far

    @cached_property
    def of_entropy(self) -> bool:
        """Whether the gradient by all words has a part that is none of a penalty."""
        return any(
            words.expanded is None
            or any(
                "v" in factor.base.indices
                for term in words.of(Kind.SIGNAL, Kind.BASELINE, Kind.SHAPING)
                for factor in term.factors
            )
            for words in self.by_words
        )

    @cached_property
    def live_advantages(self) -> tuple[LiveAdvantage, ...]:
        """The advantages whose own gradient adds to the weights what was not meant."""
        return tuple(live_advantages(self.objective, self.weights, self.on_policy))

    @cached_property
    def live_divisors(self) -> tuple[LiveDivisor, ...]:
        """The divisors whose own gradient bends what was meant."""
        return tuple(live_divisors(self.objective, self.weights, self.estimators))

    @cached_property
    def epsilons(self) -> tuple[Epsilon, ...]:
        """The small numbers beside probabilities."""
        params = {param.name: param.default for param in self.objective.params}
        return tuple(epsilons(self.objective.goal, params))

    @cached_property
    def meant(self) -> tuple[Estimator, ...]:
        """`rewarded`, without what advantages and divisors that carry a gradient add, and without
        small numbers beside probabilities: those are findings of their own, and look like
        baselines, masks and weights that nobody wrote."""
        live = [one.node for one in self.live_advantages if one.adds is Adds.BIAS]
        live += [one.node for one in self.live_divisors]
        instead: dict[n.Expr, n.Expr] = {node: n.Stop(node) for node in live}
        instead |= {one.node: one.without for one in self.epsilons}
        if not instead:
            return self.rewarded
        goal = n.replaced(self.objective.goal, instead)
        return Facts(replace(self.objective, goal=goal)).rewarded

    @cached_property
    def unpenalised(self) -> tuple[Estimator, ...]:
        """`rewarded`, as if every frozen policy were the one that is trained: without penalties and
        the constants that they leave."""
        policies = set(frozen(self.objective))
        held: dict[n.Expr, n.Expr] = {
            node: n.Stop(type(node)("pi", True))
            for node in n.topological(self.objective.goal)
            if isinstance(node, n.LogProb | n.LogDist) and node.policy in policies
        }
        if not held:
            return self.rewarded
        goal = n.replaced(self.objective.goal, held)
        return Facts(replace(self.objective, goal=goal)).rewarded

    @cached_property
    def passing(self) -> tuple[n.Expr, ...]:
        """What passes a gradient on to the goal: the live values that are not behind a stop."""
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
        """Whether the goal has a ratio of the policy to one that sampled, in a term with rewards:
        it is written for responses that are not its own."""
        samplers = set(self.on_policy.same)
        logarithms: set[n.Expr] = set()
        for node in n.topological(self.objective.goal):
            match node:
                case n.LogProb() | n.Const() | n.Param() | n.Length():
                    logarithms.add(node)
                case (
                    n.Reduce("sum" | "mean", ("t",))
                    | n.Scan()
                    | n.Stop()
                    | n.Unary("neg")
                    | n.Binary("add" | "sub" | "mul" | "div")
                ) if logarithms.issuperset(node.children):
                    logarithms.add(node)
        ratios = (
            node
            for node in reached(self.objective.goal, live=False, rewarded=True)
            if node in logarithms and node.live and isinstance(node, n.Binary)
        )
        return any(
            isinstance(leaf, n.LogProb) and leaf.policy in samplers
            for node in ratios
            for leaf in n.topological(node)
        )

    @cached_property
    def names(self) -> Names:
        return names_of(self.objective.bindings)

    def written(self, expr: n.Expr) -> str:
        """A formula as people read it, with the names of the file."""
        shown: dict[n.Expr, n.Expr] = {}
        for node in n.topological(expr):
            match node:
                case Elsewhere(x):
                    shown[node] = n.Reduce("sum", ("p",), x)
                case LogRatio(ratio):
                    shown[node] = sub(n.LogProb(ratio.of), n.LogProb(ratio.to))
                case LogDistRatio(ratio):
                    shown[node] = sub(n.LogDist(ratio.of), n.LogDist(ratio.to))
        return text(n.replaced(expr, shown), self.names)

    def weighed(self, penalty: Penalty) -> str:
        """By what a penalty is weighed that changes with the response, `, weighed by 1 / |y|`;
        nothing if nothing."""
        factors = frozenset((factor.base, factor.exponent) for factor in penalty.bent_by)
        return f", weighed by {self.written(Sum({factors: 1.0}).expr())}" if factors else ""


def facts_of(objective: Objective) -> Facts:
    """What is known of a file's objective, in which a column that can be nothing but the reward
    need not be declared as one."""
    column = signal(objective)
    return Facts(objective if column is None else with_reward(objective, column))
