"""Policies that follow the trained one: copied every so many rollouts, or an average of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.ir.declarations import Policy as Declared
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.processes.ranks import full_tensor


@dataclass(frozen=True)
class Following:
    """The followers of a run.

    Attributes:
        declared: what the objective says of them.
        policies: the policies of the run, by name; a run may lack some.
        trained: the policy that they follow. Where it is sharded, so are they.
    """

    declared: Sequence[Declared]
    policies: Mapping[str, Policy]
    trained: Policy

    @torch.no_grad()
    def move(self, step: int) -> None:
        """Moves them after a rollout; `step` counts rollouts from 0."""
        for declared in self.declared:
            copied = declared.every is not None and (step + 1) % declared.every == 0
            decay = 0.0 if copied else declared.decay
            follower = self.policies.get(declared.name)
            if follower is None or decay is None:
                continue
            weights = follower.model.parameters(), self.trained.model.parameters()
            for weight, trained in zip(*weights, strict=True):
                weight.mul_(decay).add_(trained.detach(), alpha=1 - decay)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The full weights of each. Collective."""
        return {
            declared.name: {
                name: full_tensor(weight).cpu()
                for name, weight in self.policies[declared.name].model.named_parameters()
            }
            for declared in self.declared
            if declared.name in self.policies
        }
