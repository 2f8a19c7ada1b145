"""The policies of an objective: which of them learn, what they share, and what stands still.

A policy that is read off a hidden layer, `policy early = pi at layer 6`, shares the weights below
that layer with `pi`. Here the logits of a layer are what all layers up to it have added, as in a
residual stream: a table for each layer that is trained, of which a policy sums those up to its own.
So a gradient by the logits of a policy is one by each of these tables. Of policies at k layers the
gradients can be told from each other, however a network computes one layer from the last: what is
exact for these tables is exact for it.
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
class Cast:
    """The policies of a formula, by what they are."""

    formula: Objective

    @cached_property
    def hidden(self) -> dict[str, tuple[str, int]]:
        """The policies on hidden layers of the trained one: of which version, and the layer."""
        return {
            policy.name: (policy.of, policy.layer)
            for policy in self.formula.policies
            if policy.of in _VERSIONS and policy.layer is not None
        }

    @property
    def layers(self) -> list[int]:
        return sorted({layer for _, layer in self.hidden.values()})

    @cached_property
    def sampler(self) -> str:
        """The policy that responses are drawn from: `mu`, wherever `pi` or `old` is said, too."""
        policy = self.formula.sampling.policy
        return "mu" if policy in _VERSIONS else policy

    @cached_property
    def _weights(self) -> dict[str, Dependence]:
        """What the weights of each policy that a gradient reaches depend on."""
        found: dict[str, Dependence] = {}
        for leaf, weight in weights_of(self.formula).items():
            if isinstance(leaf, n.LogProb | n.LogDist):
                found[leaf.policy] = found.get(leaf.policy, Dependence()) | depends(weight)
        return found

    @cached_property
    def learners(self) -> tuple[str, ...]:
        """The policies that a gradient reaches, the deepest layer first and `pi` last."""
        return tuple(sorted(self._weights, key=lambda name: (self._depth(name), name)))

    @cached_property
    def rewarded(self) -> tuple[str, ...]:
        """The learners whose weights change with a reward; of a layer with two names, one."""
        expected = (name for name in self.learners if self._weights[name].expected)
        return tuple({self._depth(name): name for name in expected}.values())

    @cached_property
    def rewards(self) -> tuple[str, ...]:
        """The rewards that a gradient changes with; a critic expects all of them."""
        read = [self._weights[name] for name in self.learners]
        names = [column.name for column in self.formula.rewards]
        if any(one.critic for one in read):
            return tuple(names)
        return tuple(name for name in names if any(name in one.rewards for one in read))

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The policies that neither learn nor sample, nor are what a learner was before."""
        read = policies_in(*self.formula.nodes) - {*_VERSIONS, self.sampler}
        return tuple(sorted(name for name in read if self.family(name) not in self.learners))

    def family(self, name: str) -> str:
        """The learner that a policy is, or was at another time; itself if it is none."""
        of, layer = self.hidden.get(name, (name, None))
        if of not in _VERSIONS:
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
        """How many tables learn."""
        return len(self._depths)

    def joint(self, by_logits: Mapping[str, Tensor]) -> Tensor:
        """A gradient by all tables, the deepest layer's first: `[..., L * D]`, of those by the
        logits of learners, `[..., D]`."""
        above = torch.zeros_like(next(iter(by_logits.values())))
        blocks: list[Tensor] = []
        for depth in reversed(self._depths):
            own = [g for name, g in by_logits.items() if self._depth(name) == depth]
            above = sum(own, start=above)
            blocks.insert(0, above)
        return torch.cat(blocks, dim=-1)


@lru_cache(32)
def cast_of(formula: Objective) -> Cast:
    return Cast(formula)


def policies_in(*nodes: n.Expr) -> set[str]:
    """The policies that some nodes read themselves."""
    return {node.policy for node in nodes if isinstance(node, n.LogProb | n.LogDist)}
