"""The expected gradient: from the emitted code, and the same however the draws are evaluated."""

from __future__ import annotations

import pytest
import torch

import objdsl
from objdsl.audit.columns import tables_of
from objdsl.audit.draws import all_draws
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import expected, token_weights
from objdsl.audit.instance import Instance, UnauditableError
from objdsl.audit.plan import Case, plan_of, stacks
from objdsl.audit.world import world
from objdsl.objective import Objective

STACKED = ["dr_grpo", "dr_gspo", "gmpo", "grpo", "gspo", "mini_rl", "rloo", "sapo", "deepseek_v32"]
SHARED = ["dapo", "just_rl", "lite_ppo", "ppo", "reinforce_pp"]


def instance_of(objective: Objective, *, prompts: int, horizon: int = 3) -> Instance:
    plan = plan_of(objective, group=2, prompts=prompts, vocabulary=2, horizon=horizon)
    given = tables_of(objective, plan, {})
    return next(instances_of(plan, Case("real", "stale", 0.3), given, ("ref",)))


@pytest.mark.parametrize("name", STACKED)
@pytest.mark.parametrize("prompts", [1, 2])
def test_stacked_draws_have_the_weights_of_single_draws(name: str, prompts: int) -> None:
    objective = objdsl.load(name)
    assert stacks(objective)
    instance = instance_of(objective, prompts=prompts)
    response = all_draws(instance.world.responses, prompts, 2).response[::3]
    stacked = token_weights(objective, instance, response)
    single = token_weights(objective, instance, response, stacked=False)
    for key in single:
        assert torch.allclose(stacked[key], single[key], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", SHARED)
def test_prompts_that_share_a_statistic_are_not_stacked(name: str) -> None:
    """The weights would differ."""
    objective = objdsl.load(name)
    assert not stacks(objective)
    instance = instance_of(objective, prompts=1)
    response = all_draws(instance.world.responses, 1, 2).response
    single, stacked = (
        token_weights(objective, instance, response, stacked)["log_pi"] for stacked in (None, True)
    )
    assert not torch.allclose(single, stacked)


def test_the_expectation_is_that_of_autograd_over_the_loss() -> None:
    """The gradient of E[J] with respect to the logits of `pi`, with the draws' probabilities held
    fixed."""
    objective = objdsl.load("grpo")
    instance = instance_of(objective, prompts=1)
    w, mu = instance.world, instance.world.chance(instance.policies["mu"])
    draws = all_draws(w.responses, 1, 2)
    pi = instance.policies["pi"].clone().requires_grad_()
    log_pi = w.log_prob(pi)[0]
    columns = {name: table[0] for name, table in instance.tables(objective.columns).items()}
    total = torch.zeros((), dtype=torch.float64)
    for drawn, chance in zip(draws.response[:, 0], draws.chance(mu), strict=True):
        data = {name: x[drawn] for name, x in columns.items() if name != "log_pi"}
        out = objective(log_pi=log_pi[drawn], mask=w.mask[drawn], prompt=[0, 0], **data)
        total = total - chance * out.loss
    (gradient,) = torch.autograd.grad(total, pi)
    assert torch.allclose(expected(objective, instance, draws).mean, gradient.flatten(), atol=1e-14)


def test_distributions_have_their_gradient_too() -> None:
    """The entropy of the next token is added at every visited state."""
    objective = objdsl.loads("objective h\nmaximize mean[p,i] sum[t] entropy\n")
    instance = instance_of(objective, prompts=1)
    draws = all_draws(instance.world.responses, 1, 2)
    pi = instance.policies["pi"].clone().requires_grad_()
    visits = instance.world.chance(instance.policies["mu"])[..., None] * instance.world.mask
    log_dist = instance.world.log_dist(pi)
    entropy = (visits * -(log_dist.exp() * log_dist).sum(-1)).sum()
    (gradient,) = torch.autograd.grad(entropy, pi)
    assert torch.allclose(expected(objective, instance, draws).mean, gradient.flatten(), atol=1e-14)


def test_a_weight_that_is_not_finite_is_reported() -> None:
    text = "objective bare\nA = reward / std[i] reward\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
    objective = objdsl.loads(text)
    instance = instance_of(objective, prompts=1)
    draws = all_draws(world(2, 3).responses, 1, 2)
    with pytest.raises(UnauditableError, match=r"not finite in a step that can happen \(reward: "):
        expected(objective, instance, draws)
