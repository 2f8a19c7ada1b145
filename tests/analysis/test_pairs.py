"""A mean over the others of a symmetric function raises its expectation over two responses: the sum
over all outcomes of a step has that gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.analysis.facts import Facts, facts_of
from objdsl.analysis.written import of_pairs
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.world import world

WORLD = world(3, 2)
Value = Callable[[Tensor, Tensor], Tensor]

PAIRS: dict[str, tuple[str, Value]] = {
    "mean[j != i] max(reward[j], reward[i])": ("max(reward, reward')", torch.maximum),
    "sum[j != i] max(reward[j], reward[i])": ("max(reward, reward')", torch.maximum),
    "(mean[j != i] max(reward[i], reward[j])) - mean[j != i] reward":
        ("max(reward, reward')", torch.maximum),
    "-(mean[j != i] min(reward[j], reward[i]))":
        ("-min(reward, reward')", lambda a, b: -torch.minimum(a, b)),
    "mean[j != i] (reward[j] * reward[i])": ("reward * reward'", torch.mul),
    "mean[j != i] abs(reward[i] - reward[j])":
        ("abs(reward - reward')", lambda a, b: (a - b).abs()),
    "mean[j != i] exp(-abs(reward[j] - reward[i]))":
        ("1 / exp(abs(reward - reward'))", lambda a, b: (-(a - b).abs()).exp()),
    "mean[j != i] ((reward[j] - reward[i])^2)": ("", lambda a, b: (a - b) ** 2),
    "reward + mean[j != i] min(reward[j], reward[i])":
        ("reward + 0.5 * min(reward, reward')", lambda a, b: a + torch.minimum(a, b) / 2),
    "2 * reward - 3 * (sum[j != i] max(reward[j], reward[i]))":
        ("", lambda a, b: 2 * a - 3 * torch.maximum(a, b)),  # half of it, of two others
    "mean[j != i] ((reward[j] > reward[i]) + (reward[i] > reward[j]))":
        ("", lambda a, b: (a != b).double()),
}  # fmt: skip
NONE = [
    "reward - mean[j != i] reward",
    "mean[j != i] max(reward[j], 2 * reward[i])",
    "mean[j != i] (reward[j] < reward[i])",
    "reward * (mean[j != i] max(reward[j], reward[i]))",
    "(mean[j != i] max(reward[j], reward[i])) * |y|",
    "(mean[j != i] max(reward[j], reward[i])) - max[i] reward",
]


def loaded(advantage: str, group: str = "sample from mu: group 3\n") -> objdsl.Objective:
    head = f"objective x\ngiven reward in [0, 1]\n{group}A = {advantage}\n"
    return objdsl.loads(f"{head}maximize mean[p,i] sum[t] (A * log(pi))\n")


def raised(facts: Facts) -> str:
    (estimator,) = facts.estimators
    return of_pairs(estimator, facts.names)


@pytest.mark.parametrize("advantage", PAIRS)
def test_the_gradient_is_that_of_the_expectation_over_pairs(advantage: str) -> None:
    objective = loaded(advantage)
    text, value = PAIRS[advantage]
    explained = raised(facts_of(objective.formula))
    assert explained == f"E[{text}]" if text else explained.startswith("E["), explained

    generator = torch.Generator().manual_seed(2)
    shape = (1, WORLD.states, WORLD.vocabulary)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    reward = torch.rand(1, WORLD.responses, dtype=torch.float64, generator=generator)
    chance = WORLD.chance(logits)[0]
    matrix = value(reward[0][:, None], reward[0][None, :])
    (true,) = torch.autograd.grad(chance @ matrix @ chance, logits)
    policies = dict.fromkeys(("pi", "old", "mu"), logits.detach())
    instance = Instance(WORLD, policies, {"reward": reward})
    gradient = expected(objective, instance, all_draws(WORLD.responses, 1, 3)).mean
    scale = float(gradient @ true.flatten() / (true.flatten() @ true.flatten()))
    assert scale > 0.1
    torch.testing.assert_close(gradient, scale * true.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("advantage", NONE)
def test_what_is_no_mean_over_pairs(advantage: str) -> None:
    assert not raised(facts_of(loaded(advantage).formula))


def test_constants_that_depend_on_the_group_are_not_said_without_it() -> None:
    advantage = "reward + sum[j != i] min(reward[j], reward[i])"
    assert raised(facts_of(loaded(advantage).formula)) == "E[reward + min(reward, reward')]"
    assert not raised(facts_of(loaded(advantage, "").formula))
    alone = "sum[j != i] min(reward[j], reward[i])"
    assert raised(facts_of(loaded(alone, "").formula)) == "E[min(reward, reward')]"


def test_known_before_the_response_is_no_reward() -> None:
    text = (
        "objective x\ngiven role[p,i] before i\nA = reward + mean[j != i] max(role[j], role[i])\n"
        "maximize mean[p,i] sum[t] (A * log(pi))\n"
    )
    assert not raised(facts_of(objdsl.loads(text).formula))
