"""What the gradient weights of an objective estimate, on their own and against other policies."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.gradient.divergence import Penalty, penalties
from objdsl.analysis.gradient.estimator import Direction, Estimator
from objdsl.analysis.gradient.policies import far_policy, near_policy, on_policy
from objdsl.analysis.gradient.terms import Kind
from objdsl.frozen import dataclass
from objdsl.ir.build import div
from objdsl.ir.differentiate import Leaf, weights_of
from objdsl.ir.objective import Objective

_NOT_REWARDED = (Direction.NONE, Direction.UNKNOWN)


@dataclass(frozen=True)
class Estimates:
    """An objective, its gradient weights, and what they estimate.

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
        """The weights by the log-probability of the sampled token: `w = dJ / dlog pi`."""
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
        """Formulas as sums of products with the versions of the policy apart, near on policy."""
        return near_policy(self.objective, self.on_policy)

    @cached_property
    def rewarded(self) -> tuple[Estimator, ...]:
        """The estimators that follow rewards at all."""
        return tuple(e for e in self.estimators if e.direction not in _NOT_REWARDED)

    @cached_property
    def near(self) -> tuple[Estimator, ...]:
        """The rewarded estimators with the policies apart."""
        return tuple(replace(estimator, expand=self.near_policy) for estimator in self.rewarded)

    @cached_property
    def far(self) -> Estimator:
        """The first rewarded estimator, wherever the policies are."""
        return replace(self.rewarded[0], expand=far_policy(self.objective))

    @cached_property
    def expansions(self) -> tuple[Expand, ...]:
        """How formulas are read: on policy, near it, and wherever the policies are."""
        far = (self.far.expand,) if self.rewarded else ()
        return self.on_policy, self.near_policy, *far

    @cached_property
    def by_distributions(self) -> tuple[Estimator, ...]:
        """What the weights by distributions estimate, written as weights of a sampled token."""
        return tuple(
            Estimator(self.objective, leaf, div(w, n.Unary("exp", leaf)), self.on_policy)
            for leaf, w in self.weights.items()
            if isinstance(leaf, n.LogDist)
        )

    @cached_property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties against frozen policies, by the sampled tokens."""
        return tuple(penalty for each in self.estimators for penalty in penalties(each))

    @cached_property
    def distribution_penalties(self) -> tuple[Penalty, ...]:
        """The penalties by whole next-token distributions. `sum_v pi_v g_v grad log pi_v` is the
        expectation of a sampled token's `g grad log pi`."""
        return tuple(penalty for each in self.by_distributions for penalty in penalties(each))

    @cached_property
    def of_entropy(self) -> bool:
        """Whether the gradient by distributions has a part that belongs to no penalty."""
        return any(
            each.expanded is None
            or any(
                "v" in factor.base.indices
                for term in each.of(Kind.SIGNAL, Kind.BASELINE, Kind.SHAPING)
                for factor in term.factors
            )
            for each in self.by_distributions
        )
