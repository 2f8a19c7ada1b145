"""The gradients that an objective may claim to follow, in closed form.

All are sums over all responses of a probability times a weight times the score, averaged over the
prompts: vectors `[P * S * K]`, with respect to all logits of a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from objdsl.audit.compare import constants
from objdsl.audit.gradient import Expected
from objdsl.audit.instance import Instance
from objdsl.audit.result import number
from objdsl.audit.roles import Roles
from objdsl.audit.world import World
from objdsl.frozen import dataclass


def policy_gradient(world: World, pi: Tensor, reward: Tensor) -> Tensor:
    """`grad E_{y ~ pi}[reward] = E[ reward * sum_t s_t ]`.

    Args:
        pi: `[P, S, K]`, logits.
        reward: `[P, Y]`, or `[P, Y, T]` for tokens, which are summed.
    """
    total = reward.sum(-1) if reward.dim() == 3 else reward
    return _sum(world, pi, (world.chance(pi) * total)[..., None])


class Divergence(NamedTuple):
    """A divergence between the policy `pi` and a frozen one `q`, and its gradient."""

    name: str
    meaning: str
    gradient: Tensor


def divergences(world: World, pi: Tensor, q: Tensor, visits: Tensor) -> list[Divergence]:
    """The divergences that a penalty against `q` may descend.

    "per token" sums the divergence of the next-token distributions over the states that are
    visited, and holds these visits fixed: the gradient leaves out that the choice of a token
    changes which states come later. "whole response" is the divergence between the two
    distributions over responses.

    Args:
        visits: `[P, Y]`, the probability with which each response is sampled.
    """
    p = world.log_dist(pi).exp()
    x = torch.where(p > 0, world.log_dist(q) - world.log_dist(pi), 0.0)
    chance = world.chance(pi)
    whole = torch.where(world.mask, world.at_tokens(x), 0.0).sum(-1)
    return [
        Divergence(
            "reverse KL, whole response",
            "KL(pi || q) over responses",
            _sum(world, pi, (chance * -whole)[..., None]),
        ),
        Divergence(
            "reverse KL, per token",
            "sum over visited states of KL(pi || q), visits held fixed",
            _sum_of_entries(world, pi, visits, p * -x),
        ),
        Divergence(
            "forward KL, per token",
            "sum over visited states of KL(q || pi), visits held fixed",
            _sum_of_entries(world, pi, visits, p * (1 - x.exp())),
        ),
        Divergence(
            "forward KL, whole response",
            "KL(q || pi) over responses",
            _sum(world, pi, -world.chance(q)[..., None]),
        ),
    ]


def _sum(world: World, pi: Tensor, weight: Tensor) -> Tensor:
    """`mean_p sum_y sum_t weight s_t`, for a weight `[P, Y, T]` or `[P, Y, 1]`."""
    weight = weight.expand(-1, *world.mask.shape)
    return torch.einsum("pyt,pytd->pd", weight, world.scores(pi)).flatten() / len(pi)


def _sum_of_entries(world: World, pi: Tensor, visits: Tensor, weight: Tensor) -> Tensor:
    """`mean_p sum_y visits sum_t sum_v weight s_v`, for a weight `[P, Y, T, K]`."""
    scores = world.all_scores(pi)
    return torch.einsum("py,pytv,pytvd->pd", visits, weight, scores).flatten() / len(pi)


@dataclass(frozen=True)
class Target:
    """The gradient that an objective is compared with: that of a sum of expected rewards minus a
    sum of divergences, for each policy that rewards train.

    Attributes:
        kept: the policies that divergences are from.
        constants: the factor of each reward and of each divergence, up to one scale per policy;
            empty where there is a single reward and nothing else.
    """

    roles: Roles
    kept: tuple[str, ...]
    constants: tuple[float, ...] = ()

    @property
    def _rewards(self) -> list[tuple[str, str]]:
        return [(name, reward) for name in self.roles.rewarded for reward in self.roles.rewards]

    @property
    def _divergences(self) -> list[tuple[str, str]]:
        return [(name, policy) for name in self.roles.rewarded for policy in self.kept]

    def directions(self, instance: Instance) -> Tensor:
        """The gradients that the constants multiply, `[L * P * S * K, C]`."""
        world, policies, rewards = instance.world, instance.policies, instance.rewards
        columns = [
            joint(
                self.roles, instance, name, policy_gradient(world, policies[name], rewards[reward])
            )
            for name, reward in self._rewards
        ]
        for name, other in self._divergences:
            whole = divergences(world, policies[name], policies[other], instance.chance)[0]
            columns.append(-joint(self.roles, instance, name, whole.gradient))
        return torch.stack(columns, dim=1)

    def gradient(self, instance: Instance) -> Tensor:
        directions = self.directions(instance)
        if not self.constants:
            return directions[:, 0]
        factors: Tensor = directions.new_tensor(self.constants)
        return directions @ factors

    def fitted(self, gradients: Sequence[tuple[Instance, Expected]]) -> Target:
        """The target with the constants that come nearest to some expected gradients."""
        if len(self._rewards) + len(self._divergences) == 1:
            return self
        pairs = [(gradient, self.directions(instance)) for instance, gradient in gradients]
        return replace(self, constants=tuple(constants(pairs).tolist()))

    @property
    def written(self) -> str:
        """`E[0.8 correct + 0.2 format] - 0.05 KL(pi || ref)`."""
        factors = iter(self.constants or (1.0,) * len(self._rewards))
        terms: dict[str, list[str]] = {}
        for name, reward in self._rewards:
            factor = f"{number(next(factors))} " if self.constants else ""
            terms.setdefault(name, []).append(factor + reward)
        expectations = (
            f"E{'' if name == 'pi' else f'_{name}'}[{' + '.join(of_policy)}]"
            for name, of_policy in terms.items()
        )
        penalties = (
            f" - {number(next(factors))} KL({name} || {policy})"
            for name, policy in self._divergences
        )
        return " + ".join(expectations) + "".join(penalties)


def joint(roles: Roles, instance: Instance, name: str, gradient: Tensor) -> Tensor:
    """The gradient with respect to all tables that learn, from that by the logits of a policy."""
    return roles.joint({name: gradient.view(len(instance.policies[name]), -1)}).flatten()
