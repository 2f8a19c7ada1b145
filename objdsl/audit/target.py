"""The gradients that an objective may claim to follow, in closed form.

All are sums over all responses of a probability times a weight times the score, averaged over the
prompts; vectors `[P * S * K]`, by all logits of `pi`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from objdsl.audit.world import World


def policy_gradient(world: World, pi: Tensor, reward: Tensor) -> Tensor:
    """`grad E_{y ~ pi}[reward] = E[ reward * sum_t s_t ]`.

    Args:
        pi: `[P, S, K]`, logits.
        reward: `[P, Y]`, or `[P, Y, T]` of tokens, whose sum is meant.
    """
    total = reward.sum(-1) if reward.dim() == 3 else reward
    return _sum(world, pi, (world.chance(pi) * total)[..., None])


class Divergence(NamedTuple):
    """A divergence between the policy and a frozen one `q`, and the gradient of it by `pi`."""

    name: str
    meaning: str
    gradient: Tensor


def divergences(world: World, pi: Tensor, q: Tensor) -> list[Divergence]:
    """What a penalty against `q` may descend. `X_t = log(q_t / pi_t)`.

    "per token" sums the divergence of the next-word distributions over the states that `pi`
    visits, and holds these visits fixed: it is the gradient of that sum only as far as the choice
    of a word does not change which states come later. "whole response" is the divergence between
    the two distributions over responses.
    """
    chance, x = world.chance(pi), world.log_prob(q) - world.log_prob(pi)
    here = chance[..., None]
    return [
        Divergence(
            "reverse KL, whole response",
            "KL(pi || q) over responses",
            _sum(world, pi, here * -x.sum(-1, keepdim=True)),
        ),
        Divergence(
            "reverse KL, per token",
            "sum over visited states of KL(pi || q), visits held fixed",
            _sum(world, pi, here * -x),
        ),
        Divergence(
            "forward KL, per token",
            "sum over visited states of KL(q || pi), visits held fixed",
            _sum(world, pi, here * (1 - x.exp())),
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
