"""No finding where nothing is wrong: hundreds of forms of exactly unbiased gradients.

Each form is first summed over all outcomes of a step: it is exact, whatever it looks like.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import objdsl
from helpers.exact_forms import exact
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.target import policy_gradient
from objdsl.audit.world import world
from objdsl.diagnostic import Claim
from objdsl.lint.run import findings
from objdsl.objective import Objective

CLAIMS = (Claim.DIRECTION, Claim.PROMPT_WEIGHTS, Claim.PENALTY, Claim.NUMERICS)
WORLD = world(2, 2)
FORMS, PARTS = 320, 16


def rewards(objective: Objective, prompts: int, generator: torch.Generator) -> Tensor:
    """Rewards of the declared domain, `[P, Y]`."""
    (column,) = objective.formula.rewards
    shape = (prompts, WORLD.responses)
    if column.values:
        index = torch.arange(WORLD.responses).expand(shape) % len(column.values)
        return torch.tensor(sorted(column.values), dtype=torch.float64)[index]
    low, high = max(column.lower, -3.0), min(column.upper, 3.0)
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)


def residual(objective: Objective, seed: int, prompts: int = 1) -> float:
    """The part of the expected gradient on policy that is not a multiple of the true one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (prompts, WORLD.states, WORLD.vocabulary)
    pi = torch.randn(shape, dtype=torch.float64, generator=generator)
    reward = rewards(objective, prompts, generator)
    scene = Instance(WORLD, dict.fromkeys(("pi", "old", "mu"), pi), {"reward": reward})
    draws = all_draws(WORLD.responses, prompts, 3 if prompts == 1 else 2)
    gradient = expected(objective, scene, draws).mean
    true = policy_gradient(WORLD, pi, reward)
    scale = (gradient @ true) / (true @ true)
    assert scale > 0
    return float((gradient - scale * true).norm() / gradient.norm())


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_found_in_exact_forms(part: int) -> None:
    for seed in range(part, FORMS, PARTS):
        text = exact(random.Random(seed))
        objective = objdsl.loads(text)
        assert residual(objective, seed) < 1e-12, text
        # The variance of a product of ratios is not bounded, whatever its expectation is.
        reported = [
            f"{finding.code} {finding.message}"
            for finding in findings(objective.formula)
            if finding.claim in CLAIMS and finding.name != "unbounded-product"
        ]
        assert not reported, text
        directions = {estimator.direction for estimator in Facts(objective.formula).estimators}
        assert directions == {Direction.EXACT}, text
