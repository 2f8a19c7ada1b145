"""The expected gradient of an objective, by running the code that it compiles to on every draw.

The objective gives `w = dJ/dlog pi` for each token of an optimizer step, so the gradient that the
step follows is `g = sum over its tokens of w * s_t`, with the score `s_t = grad log pi(y_t)`. Here
`w` comes from the emitted program, or from autograd through a Python function, and the expectation
of `g` is the sum over all draws of probability times `g`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from objdsl.audit.draws import Draws
from objdsl.audit.function import Function
from objdsl.audit.instance import Instance, UnauditableError
from objdsl.audit.plan import stacks
from objdsl.audit.roles import roles_of
from objdsl.audit.world import World
from objdsl.frozen import dataclass
from objdsl.ir.columns import LogProbs, of_policy
from objdsl.losses.batch import ADVANTAGE, Batch
from objdsl.losses.loss import LossError, ObjectiveLoss
from objdsl.objective import Objective

# Draws per call where they can be stacked; bounds the memory.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Expected:
    """The gradient of a step, as a random vector of D = tables * P * S * K components.

    Attributes:
        mean: `[D]`, `E[g]`.
        variance: `tr Cov(g)`.
        weights: `[P, Y, T]`, the expected `w` of a token, summed over the draws of its response.
        noise: `[D, D]`, the covariance of `mean` as an estimate, where draws are sampled; None
            where all are summed.
    """

    mean: Tensor
    variance: float
    weights: Tensor
    noise: Tensor | None


def expected(objective: Objective | Function, instance: Instance, draws: Draws) -> Expected:
    """`E[g]` and `tr Cov(g)` of a step, with respect to all tables that learn.

    Raises:
        UnauditableError: the objective reads a column that the instance does not have, or a weight
            is not finite on a draw that can happen.
    """
    world, roles = instance.world, roles_of(objective.formula)
    chance = draws.chance(instance.chance)
    happens = chance > 0
    drawn, chance = draws.response[happens], chance[happens]
    all_scores = {name: world.all_scores(instance.policies[name]) for name in roles.learners}
    scores = {name: world.at_tokens(scores) for name, scores in all_scores.items()}
    prompts, responses, horizon, size = next(iter(scores.values())).shape
    size *= prompts * roles.tables
    mean, square = chance.new_zeros(size), 0.0
    weights = chance.new_zeros(prompts, responses, horizon)
    second = None if draws.exact else chance.new_zeros(size, size)
    for part in torch.split(torch.arange(len(drawn)), _CHUNK):
        response, q = drawn[part], chance[part]
        w = token_weights(objective, instance, response)
        by_response = {name: _by_response(x, response, world) for name, x in w.items()}
        if (of_pi := by_response.get(LogProbs("pi").name)) is not None:
            weights += torch.einsum("m,mpyt->pyt", q, of_pi)
        by_logits = {}
        for name in roles.learners:
            g = q.new_zeros(len(part), prompts, scores[name].shape[-1])
            of_tokens, of_entries = map(by_response.get, of_policy(name))
            if of_tokens is not None:
                g += torch.einsum("mpyt,pytd->mpd", of_tokens, scores[name])
            if of_entries is not None:
                g += torch.einsum("mpytv,pytvd->mpd", of_entries, all_scores[name])
            by_logits[name] = g
        g = roles.joint(by_logits).flatten(1)
        mean += q @ g
        square += float(q @ (g * g).sum(-1))
        if second is not None:
            second += g.T @ g
    variance = max(square - float(mean @ mean), 0.0)
    if second is None:
        return Expected(mean, variance, weights, None)
    count = len(draws)
    covariance = (second - count * torch.outer(mean, mean)) / (count - 1)
    return Expected(mean, float(covariance.trace()), weights, covariance / count)


def token_weights(
    objective: Objective | Function,
    instance: Instance,
    response: Tensor,
    stacked: bool | None = None,
) -> dict[str, Tensor]:
    """The weights of some draws `[M, P, G]`, each as if it were the whole step.

    Args:
        stacked: whether all are evaluated as one step; by default wherever that is the same.

    Returns:
        `[M, P, G, T]` for `log_pi`, and `[M, P, G, T, K]` for `log_pi_dist`; the same for every
        policy that is trained.
    """
    tables = instance.tables(objective.columns)
    if stacks(objective) if stacked is None else stacked:
        weights = _step(objective, instance, tables, response, check=True)
        weights = {name: len(response) * w for name, w in weights.items()}
    else:
        # Every draw has the same shape: checking one is checking all.
        steps = [
            _step(objective, instance, tables, draw, check=k == 0)
            for k, draw in enumerate(torch.split(response, 1))
        ]
        weights = {name: torch.cat([step[name] for step in steps]) for name in steps[0]}
    for w in weights.values():
        _check_finite(objective, instance, response, w)
    return weights


def _step(
    objective: Objective | Function,
    instance: Instance,
    tables: Mapping[str, Tensor],
    response: Tensor,
    *,
    check: bool,
) -> dict[str, Tensor]:
    """The weights `[M, P, G, T, ...]` of one optimizer step that has the prompts of M draws."""
    draws, prompts, group = response.shape
    prompt = torch.arange(prompts)[:, None].expand(response.shape)
    columns: dict[str, Any] = {
        name: table[prompt, response].flatten(0, 2) for name, table in tables.items()
    }
    for name, table in instance.slots.items():
        of_rows = table[prompt, torch.arange(group).expand(response.shape)].flatten(0, 2)
        if len(objective.columns[name].indices) > 2 and of_rows.dim() < 2:
            of_rows = of_rows[:, None].expand(-1, instance.world.horizon)
        columns[name] = of_rows
    batch = Batch(
        torch.arange(draws * prompts).repeat_interleave(group),
        instance.world.mask[response].flatten(0, 2),
        columns,
        instance.noise,
        check,
    )
    try:
        weights = _evaluated(objective, batch)
    except LossError as error:
        raise UnauditableError(str(error.__cause__ or error)) from error
    return {
        name: w.reshape(*response.shape, *w.shape[1:])
        for name, w in weights.items()
        if isinstance(objective.columns[name].role, LogProbs)
    }


def _evaluated(objective: Objective | Function, batch: Batch) -> dict[str, Tensor]:
    """The weights of a step: minus the gradients of its loss."""
    if isinstance(objective, Objective):
        evaluation = ObjectiveLoss(objective.name, objective)(batch)
    else:
        if objective.advantages is not None:
            batch = batch.with_columns(**{ADVANTAGE: objective.advantages(batch)})
        evaluation = objective.loss(batch)
    return {name: -gradient for name, gradient in evaluation.gradients.items()}


def _by_response(w: Tensor, response: Tensor, world: World) -> Tensor:
    """Sums over the members of a draw that are the same response: `[M, P, G, ...]` ->
    `[M, P, Y, ...]`."""
    index = response.view(*response.shape, *[1] * (w.dim() - 3)).expand(w.shape)
    empty = w.new_zeros(*w.shape[:2], world.responses, *w.shape[3:])
    return empty.scatter_add(2, index, w)


def _check_finite(
    objective: Objective | Function, instance: Instance, response: Tensor, w: Tensor
) -> None:
    bad = ~torch.isfinite(w).flatten(1).all(-1)
    if bool(bad.any()):
        drawn = response[int(bad.nonzero()[0])]
        prompt = torch.arange(len(drawn))[:, None]
        rewards = "; ".join(
            f"{name}: {', '.join(f'{r:g}' for r in table[prompt, drawn].flatten().tolist())}"
            for name, table in instance.rewards.items()
        )
        raise UnauditableError(
            f"{objective.name} has a weight that is not finite in a step that can happen"
            + (f" ({rewards})" if rewards else "")
            + "; guard it there, by `std[i] reward + 1e-4` or `keep p where std[i] reward > 0`, or "
            + "declare the domain of the rewards, if it excludes these: `given reward in [0, 1]`"
        )
