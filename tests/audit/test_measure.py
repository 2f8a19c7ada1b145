"""The expected gradient: from the emitted code, and the same however the draws are evaluated."""

from __future__ import annotations

import pytest
import torch

import objdsl
from objdsl.audit import measure
from objdsl.audit.experiment import plan_of, scenes_of, tables_of
from objdsl.audit.measure import Scene, UnauditableError, expected, stacks, token_weights
from objdsl.audit.world import all_draws, world
from objdsl.objective import Objective

STACKED = ["dr_grpo", "dr_gspo", "gmpo", "grpo", "gspo", "mini_rl", "rloo", "sapo", "deepseek_v32"]
APART = ["dapo", "just_rl", "lite_ppo", "ppo", "reinforce_pp"]


def scene_of(objective: Objective, *, prompts: int, words: int = 2, horizon: int = 3) -> Scene:
    plan = plan_of(objective, 2, prompts, words, horizon, None, 1, 0)
    given = tables_of(objective, plan, {})
    return next(scenes_of(plan, "real", "stale", 0.3, given, ("ref",)))


@pytest.mark.parametrize("name", STACKED)
@pytest.mark.parametrize("prompts", [1, 2])
def test_stacked_draws_weigh_what_each_weighs_alone(
    name: str, prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objdsl.load(name)
    assert stacks(objective)
    scene = scene_of(objective, prompts=prompts)
    response = all_draws(scene.world.responses, prompts, 2).response[::3]
    stacked = token_weights(objective, scene, response)
    monkeypatch.setattr(measure, "stacks", lambda _: False)
    apart = token_weights(objective, scene, response)
    for key in apart:
        assert torch.allclose(stacked[key], apart[key], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", APART)
def test_what_a_step_shares_is_not_stacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And rightly so: the weights would differ."""
    objective = objdsl.load(name)
    assert not stacks(objective)
    scene = scene_of(objective, prompts=1)
    response = all_draws(scene.world.responses, 1, 2).response
    apart = token_weights(objective, scene, response)["log_pi"]
    monkeypatch.setattr(measure, "stacks", lambda _: True)
    assert not torch.allclose(token_weights(objective, scene, response)["log_pi"], apart)


def test_the_expectation_is_that_of_autograd_over_the_loss() -> None:
    """The gradient of E[J] by the logits of `pi`, with the draws' probabilities held fixed."""
    objective = objdsl.load("grpo")
    scene = scene_of(objective, prompts=1)
    w, mu = scene.world, scene.world.chance(scene.policies["mu"])
    draws = all_draws(w.responses, 1, 2)
    pi = scene.policies["pi"].clone().requires_grad_()
    log_pi = w.log_prob(pi)[0]
    columns = {name: table[0] for name, table in scene.tables(objective.columns).items()}
    total = torch.zeros((), dtype=torch.float64)
    for drawn, chance in zip(draws.response[:, 0], draws.chance(mu), strict=True):
        data = {name: x[drawn] for name, x in columns.items() if name != "log_pi"}
        out = objective(log_pi=log_pi[drawn], mask=w.mask[drawn], prompt=[0, 0], **data)
        total = total - chance * out.loss
    (gradient,) = torch.autograd.grad(total, pi)
    assert torch.allclose(expected(objective, scene, draws).mean, gradient.flatten(), atol=1e-14)


def test_the_whole_distribution_has_its_gradient_too() -> None:
    """Adding the entropy of the next word at every visited state."""
    objective = objdsl.loads("objective h\nmaximize mean[p,i] sum[t] entropy\n")
    scene = scene_of(objective, prompts=1)
    draws = all_draws(scene.world.responses, 1, 2)
    pi = scene.policies["pi"].clone().requires_grad_()
    visits = scene.world.chance(scene.policies["mu"])[..., None] * scene.world.mask
    log_dist = scene.world.log_dist(pi)
    entropy = (visits * -(log_dist.exp() * log_dist).sum(-1)).sum()
    (gradient,) = torch.autograd.grad(entropy, pi)
    assert torch.allclose(expected(objective, scene, draws).mean, gradient.flatten(), atol=1e-14)


def test_a_weight_that_is_not_finite_is_named() -> None:
    text = "objective bare\nA = reward / std[i] reward\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
    objective = objdsl.loads(text)
    scene = scene_of(objective, prompts=1)
    draws = all_draws(world(2, 3).responses, 1, 2)
    with pytest.raises(UnauditableError, match=r"not finite in a step that can happen \(reward: "):
        expected(objective, scene, draws)
