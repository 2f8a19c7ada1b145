"""What sampling does to a figure is taken off it, and said."""

from __future__ import annotations

import pytest
import torch

import objdsl
from objdsl.audit.compare import Comparison, Square, constants, residual
from objdsl.audit.experiment import plan_of, scenes_of
from objdsl.audit.measure import Expected, expected
from objdsl.audit.target import policy_gradient
from objdsl.audit.world import all_draws, some_draws


@pytest.mark.parametrize("divisor", ["1", "|y|"])
def test_sampled_figures_are_right_on_average(divisor: str) -> None:
    """The squares of the residual, the norm and the bias; and the intervals hold the exact one."""
    text = f"""objective sampled
A = reward - mean[j != i] reward
maximize mean[p,i] ((sum[t] (A * log(pi))) / {divisor})
"""
    objective = objdsl.loads(text)
    plan = plan_of(objective, 2, 1, 2, 3, None, 1, 0)
    scene = next(scenes_of(plan, "real", "on policy", 0.0, {}))
    world, pi = scene.world, scene.policies["pi"]
    d = policy_gradient(world, pi, scene.rewards["reward"])
    exact = Comparison.of(expected(objective, scene, all_draws(world.responses, 1, 2)), d)
    found = []
    for k in range(60):
        generator = torch.Generator().manual_seed(k)
        draws = some_draws(world.chance(pi), 2, 400, generator)
        found.append(Comparison.of(expected(objective, scene, draws), d))
    missed = 0
    for one in found:
        _, interval = residual([one])
        assert interval is not None
        missed += not interval[0] - 1e-9 <= exact.across**0.5 <= interval[1]
    assert missed <= 8
    across, norms, biases = (
        sum(getattr(x, name) ** power for x in found) / len(found)
        for name, power in (("across", 1), ("norm", 2), ("bias", 2))
    )
    assert across == pytest.approx(exact.across, abs=0.02)
    assert norms == pytest.approx(exact.norm**2, rel=0.1)
    assert biases == pytest.approx(exact.bias**2, abs=0.03)


def test_the_squared_length_of_noise_is_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 50, 6, dtype=torch.float64, generator=generator)
    squares = []
    for sample in draws:
        mean = sample.mean(0)
        centred = sample - mean
        squares.append(Square.of(mean, centred.T @ centred / (49 * 50)))
    values = torch.tensor([x.value for x in squares])
    assert abs(float(values.mean())) < 4 * float(values.std()) / len(values) ** 0.5
    assert sum(x.error for x in squares) / len(squares) == pytest.approx(
        float(values.std()), rel=0.3
    )
    assert sum(x.is_nothing for x in squares) > 0.9 * len(squares)


def _exact(g: torch.Tensor) -> Expected:
    return Expected(g, 1.0, g, None)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (0.3, 2.0, 1.0)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_constants_of_several_rewards(scales: tuple[float, ...], turned: bool) -> None:
    """Found exactly, also where each policy has a scale of its own; and none is below 0."""
    generator = torch.Generator().manual_seed(1)
    meant = torch.tensor([0.8, -0.2 if turned else 0.2, 0.5], dtype=torch.float64)
    directions = [
        torch.randn(9, 3, dtype=torch.float64, generator=generator) for _ in range(len(scales))
    ]
    found = [(_exact(c * (d @ meant)), d) for c, d in zip(scales, directions, strict=True)]
    c = constants(found)
    compared = [Comparison.of(got, d @ c) for got, d in found]
    assert bool((c >= 0).all())
    if turned:
        assert max(x.across for x in compared) > 1e-3
    else:
        assert torch.allclose(c / c[0], meant / meant[0])
        assert max(x.across for x in compared) < 1e-16


def test_constants_that_differ_from_policy_to_policy_are_no_constants() -> None:
    generator = torch.Generator().manual_seed(2)
    found = []
    for mix in ([1.0, 0.5], [0.5, 1.0]):
        d = torch.randn(9, 2, dtype=torch.float64, generator=generator)
        found.append((_exact(d @ d.new_tensor(mix)), d))
    c = constants(found)
    assert max(Comparison.of(got, d @ c).across for got, d in found) > 1e-3
