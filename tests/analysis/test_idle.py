"""Terms of policies whose weight is known before the token have no gradient in expectation, and are
reported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.world import world
from objdsl.lint.run import findings

WORLD = world(2, 3)
PLAIN = "mean[p,i] sum[t] (A * log(pi))"
KL = "sg(sum[v] (pi[v] * log(pi[v] / ref[v])))"
IDLE = {
    f"{PLAIN} - 0.1 * mean[p,i] sum[t] ({KL} * log(pi))": "OBJ301",
    f"mean[p,i] sum[t] ((A - 0.1 * {KL}) * log(pi))": "OBJ301",
    f"mean[p,i] sum[t] (A * log(pi) - 0.1 * {KL} * pi / old)": "OBJ301",
    f"mean[p,i] sum[t] surrogate(pi / old, A - 0.1 * {KL}, 0.8, 1.2)": "OBJ301",
    "mean[p,i] sum[t] ((A - 0.1 * sum[s < t] k1(old, ref)) * log(pi))": "OBJ301",
    "mean[p,i] sum[t] ((A - 0.1 * mean[j != i] (sum[t] k1(old, ref))) * log(pi))": "OBJ301",
    "mean[p,i] sum[t] ((A - 0.1 * sg(sum[v] (ref[v] * log(pi[v])))) * log(pi))": "OBJ301",
    f"mean[p,i] sum[t] (A * log(pi) - k2(pi, ref) - {KL} * log(pi))": "OBJ301",
    "mean[p,i] sum[t] (A * log(pi) - 0.1 * k1(pi, ref))": "OBJ301",
    "mean[p,i] sum[t] ((A + 0.01 * sg(entropy)) * log(pi))": "OBJ315",
    "mean[p,i] sum[t] (A * log(pi) + 0.01 * sg(entropy) * log(pi))": "OBJ315",
    "mean[p,i] sum[t] ((A - 0.01 * sum[v] (old[v] * log(old[v]))) * pi / old)": "OBJ315",
    "mean[p,i] sum[t] ((A - 0.01 * sum[s < t] log(old)) * log(pi))": "OBJ315",
    "mean[p,i] sum[t] ((A + 0.01 * sg(exp(entropy))) * log(pi))": "OBJ315",
}
NOT_IDLE = [
    PLAIN,
    "mean[p,i] sum[t] ((A - 0.5) * log(pi))",
    "mean[p,i] sum[t] (A * log(pi) + 0.01 * entropy)",
    "mean[p,i] sum[t] (A * log(pi) - 0.1 * k2(pi, ref))",
    "mean[p,i] sum[t] ((A - 0.1 * sum[s >= t] k1(old, ref)) * log(pi))",
    "mean[p,i] sum[t] ((A - 0.1 * (sum[t] k1(old, ref)) + 0.1 * mean[j != i] (sum[t] k1(old, ref)))"
    " * log(pi))",
    "mean[p,i] sum[t] (A * log(pi) - 0.1 * sum[v] (pi[v] * log(pi[v] / ref[v])))",
    "mean[p,i] sum[t] ((A - 0.1 * sum[t] sum[v] (old[v] * log(old[v] / ref[v]))) * log(pi))",
    "mean[p,i] sum[t] (sg(entropy) * A * log(pi))",
]


def loaded(goal: str) -> objdsl.Objective:
    head = "objective idle\nA = reward - mean[j != i] reward\nsample from mu: group 2\n"
    return objdsl.loads(f"{head}maximize {goal}\n")


def gradient(goal: str) -> Tensor:
    """The expected gradient on policy."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, WORLD.states, WORLD.vocabulary)
    pi, ref = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    reward = torch.rand(1, WORLD.responses, dtype=torch.float64, generator=generator)
    scene = Instance(WORLD, {"pi": pi, "old": pi, "mu": pi, "ref": ref}, {"reward": reward})
    return expected(loaded(goal), scene, all_draws(WORLD.responses, 1, 2)).mean


@pytest.mark.parametrize("goal", IDLE)
def test_a_term_without_an_expectation_is_found(goal: str) -> None:
    codes = {finding.code for finding in findings(loaded(goal).formula)}
    assert IDLE[goal] in codes
    rest = goal.replace("- k2(pi, ref) - ", "- 0 * ") if "k2" in goal else goal
    assert torch.allclose(gradient(rest), gradient(PLAIN), rtol=0, atol=1e-12)


@pytest.mark.parametrize("goal", NOT_IDLE)
def test_what_has_an_expectation_or_is_a_baseline_of_rewards_is_not(goal: str) -> None:
    assert {x.code for x in findings(loaded(goal).formula)}.isdisjoint({"OBJ301", "OBJ315"})


def test_lengths_leave_something_of_it() -> None:
    goal = "mean[p,i] mean[t] surrogate(pi / old, A + 0.01 * sg(entropy), 0.8, 1.2)"
    (finding,) = (x for x in findings(loaded(goal).formula) if x.code == "OBJ315")
    assert "lengths" in finding.gradient
