"""The policies of an objective by role: which learn, which share weights, which are frozen.

A policy that is read off a hidden layer, `policy early = pi at layer 6`, shares the weights below
that layer with `pi`. Here the logits of a layer are the sum of what all layers up to it have added,
as in a residual stream: there is a table for each layer that is trained, and a policy sums the
tables up to its own layer. So a gradient with respect to the logits of a policy is one with respect
to each of these tables. The gradients of policies at k layers are independent of each other,
however a network computes one layer from the last: what is exact for these tables is exact for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache

import torch
from torch import Tensor

import objdsl.ir.nodes as n
from objdsl.analysis.values.dependence import Dependence, depends
from objdsl.frozen import dataclass
from objdsl.ir.differentiate import weights_of
from objdsl.ir.objective import Objective

_VERSIONS = ("pi", "old", "mu")


@dataclass(frozen=True, eq=False)
class Roles:
    """The policies of a formula by their roles."""

    formula: Objective

    @cached_property
    def hidden(self) -> dict[str, tuple[str, float]]:
        """The policies on hidden layers: name -> (`pi`, `old` or `mu`, depth of the layer)."""
        return {
            name: (hidden.of, hidden.depth)
            for name, hidden in self.formula.hidden.items()
            if hidden.of in _VERSIONS
        }

    @property
    def layers(self) -> list[float]:
        return sorted({depth for _, depth in self.hidden.values()})

    @cached_property
    def sampler(self) -> str:
        """The policy that responses are drawn from; `mu` also if it is `pi` or `old`."""
        policy = self.formula.sampling.policy
        return "mu" if policy in _VERSIONS else policy

    @cached_property
    def _weights(self) -> dict[str, Dependence]:
        """What the weights of each policy that a gradient reaches depend on."""
        weights: dict[str, Dependence] = {}
        for leaf, weight in weights_of(self.formula).items():
            if isinstance(leaf, n.LogProb | n.LogDist):
                weights[leaf.policy] = weights.get(leaf.policy, Dependence()) | depends(weight)
        return weights

    @cached_property
    def learners(self) -> tuple[str, ...]:
        """The policies that a gradient reaches, the deepest layer first and `pi` last."""
        return tuple(sorted(self._weights, key=lambda name: (self._depth(name), name)))

    @cached_property
    def rewarded(self) -> tuple[str, ...]:
        """The learners whose weights change with a reward; one name for each layer."""
        expected = (name for name in self.learners if self._weights[name].expected)
        return tuple({self._depth(name): name for name in expected}.values())

    @cached_property
    def rewards(self) -> tuple[str, ...]:
        """The rewards that a gradient changes with; a critic predicts the sum of all of them."""
        dependences = [self._weights[name] for name in self.learners]
        names = [column.name for column in self.formula.rewards]
        if any(dependence.critic for dependence in dependences):
            return tuple(names)
        return tuple(name for name in names if any(name in d.rewards for d in dependences))

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The frozen policies: they neither learn nor sample, nor are an older learner."""
        others = n.policies_in(*self.formula.nodes) - {*_VERSIONS, self.sampler}
        return tuple(sorted(name for name in others if self.family(name) not in self.learners))

    def family(self, name: str) -> str:
        """The learner that a policy is a version of; the policy itself if there is none."""
        version, layer = self.hidden.get(name, (name, None))
        if version not in _VERSIONS:
            return name
        same = (x for x in self.learners if self.hidden.get(x, ("pi", None))[1] == layer)
        return next(same, name if layer is not None else "pi")

    def _depth(self, name: str) -> float:
        return self.hidden[name][1] if name in self.hidden else torch.inf

    @cached_property
    def _depths(self) -> list[float]:
        return sorted({self._depth(name) for name in self.learners})

    @property
    def tables(self) -> int:
        """The number of tables that learn."""
        return len(self._depths)

    def joint(self, by_logits: Mapping[str, Tensor]) -> Tensor:
        """The gradient with respect to all tables, `[..., L * D]`, the deepest layer's first.

        Args:
            by_logits: the gradients with respect to the logits of learners, `[..., D]`.
        """
        above = torch.zeros_like(next(iter(by_logits.values())))
        blocks: list[Tensor] = []
        for depth in reversed(self._depths):
            here = [grad for name, grad in by_logits.items() if self._depth(name) == depth]
            above = sum(here, start=above)
            blocks.insert(0, above)
        return torch.cat(blocks, dim=-1)


@lru_cache(32)
def roles_of(formula: Objective) -> Roles:
    return Roles(formula)
