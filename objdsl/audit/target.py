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


def divergences(world: World, pi: Tensor, q: Tensor, visits: Tensor) -> list[Divergence]:
    """What a penalty against `q` may descend. `X_v = log(q_v / pi_v)` of a word, `X` of a response.

    "per token" sums the divergence of the next-word distributions over the states that are
    visited, and holds these visits fixed: it is the gradient of that sum only as far as the choice
    of a word does not change which states come later. "whole response" is the divergence between
    the two distributions over responses.

    Args:
        visits: `[P, Y]`, how often responses are drawn.
    """
    p = world.log_dist(pi).exp()
    x = torch.where(p > 0, world.log_dist(q) - world.log_dist(pi), 0.0)
    chance = world.chance(pi)
    whole = torch.where(world.mask, world.taken(x), 0.0).sum(-1)
    return [
        Divergence(
            "reverse KL, whole response",
            "KL(pi || q) over responses",
            _sum(world, pi, (chance * -whole)[..., None]),
        ),
        Divergence(
            "reverse KL, per token",
            "sum over visited states of KL(pi || q), visits held fixed",
            _sum_of_words(world, pi, visits, p * -x),
        ),
        Divergence(
            "forward KL, per token",
            "sum over visited states of KL(q || pi), visits held fixed",
            _sum_of_words(world, pi, visits, p * (1 - x.exp())),
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


def _sum_of_words(world: World, pi: Tensor, visits: Tensor, weight: Tensor) -> Tensor:
    """`mean_p sum_y visits sum_t sum_v weight s_v`, for a weight `[P, Y, T, K]`."""
    scores = world.word_scores(pi)
    return torch.einsum("py,pytv,pytvd->pd", visits, weight, scores).flatten() / len(pi)
