"""Everything that is known of one objective: each fact is worked out once, when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from objdsl.differentiate import Leaf, differentiate
from objdsl.ir.build import sub
from objdsl.ir.nodes import Expr, LogProb
from objdsl.ir.objective import Objective
from objdsl.ir.show import Names, names_of, text


@dataclass(frozen=True)
class Facts:
    """An objective, its gradient weights, and what the analyses say of them.

    Attributes:
        objective: the formula, at its parameters' defaults.
    """

    objective: Objective

    @cached_property
    def weights(self) -> dict[Leaf, Expr]:
        """The derivative of what is maximised (J minus the critic's loss) by each trained leaf."""
        goal, critic = self.objective.goal, self.objective.critic
        return differentiate(goal if critic is None else sub(goal, critic))

    @cached_property
    def policy_weights(self) -> dict[LogProb, Expr]:
        """Of them, those by the log-probability of the sampled token: `w = dJ / dlog pi`."""
        return {leaf: w for leaf, w in self.weights.items() if isinstance(leaf, LogProb)}

    @cached_property
    def names(self) -> Names:
        return names_of(self.objective.bindings)

    def written(self, expr: Expr) -> str:
        """A formula as people read it, with the names of the file."""
        return text(expr, self.names)
