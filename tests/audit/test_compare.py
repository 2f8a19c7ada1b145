"""Sampled figures are unbiased, and come with an interval."""

from __future__ import annotations

import pytest
import torch

import objdsl
from objdsl.audit.compare import Comparison, Square, constants, residual
from objdsl.audit.draws import all_draws, some_draws
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import Expected, expected
from objdsl.audit.plan import Case, plan_of
from objdsl.audit.target import policy_gradient


@pytest.mark.parametrize("divisor", ["1", "|y|"])
def test_sampled_figures_are_right_on_average(divisor: str) -> None:
    """The squares of the residual, the norm and the bias; and the intervals contain the exact
    value."""
    text = f"""objective sampled
A = reward - mean[j != i] reward
maximize mean[p,i] ((sum[t] (A * log(pi))) / {divisor})
"""
    objective = objdsl.loads(text)
    plan = plan_of(objective, group=2, prompts=1, vocabulary=2, horizon=3)
    instance = next(instances_of(plan, Case("real"), {}))
    world, pi = instance.world, instance.policies["pi"]
    d = policy_gradient(world, pi, instance.rewards["reward"])
    exact = Comparison.of(expected(objective, instance, all_draws(world.responses, 1, 2)), d)
    comparisons = []
    for k in range(60):
        generator = torch.Generator().manual_seed(k)
        draws = some_draws(world.chance(pi), 2, 400, generator)
        comparisons.append(Comparison.of(expected(objective, instance, draws), d))
    missed = 0
    for comparison in comparisons:
        _, interval = residual([comparison])
        assert interval is not None
        missed += not interval[0] - 1e-9 <= exact.orthogonal**0.5 <= interval[1]
    assert missed <= 8
    orthogonal, norms, biases = (
        sum(getattr(x, name) ** power for x in comparisons) / len(comparisons)
        for name, power in (("orthogonal", 1), ("norm", 2), ("bias", 2))
    )
    assert orthogonal == pytest.approx(exact.orthogonal, abs=0.02)
    assert norms == pytest.approx(exact.norm**2, rel=0.1)
    assert biases == pytest.approx(exact.bias**2, abs=0.03)


def test_the_squared_length_of_noise_is_zero() -> None:
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
    assert sum(x.is_noise for x in squares) > 0.9 * len(squares)


def _exact(g: torch.Tensor) -> Expected:
    return Expected(g, 1.0, g, None)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (0.3, 2.0, 1.0)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_constants_of_several_rewards(scales: tuple[float, ...], turned: bool) -> None:
    """They are exact, even where each policy has its own scale; and none is below 0."""
    generator = torch.Generator().manual_seed(1)
    true = torch.tensor([0.8, -0.2 if turned else 0.2, 0.5], dtype=torch.float64)
    directions = [
        torch.randn(9, 3, dtype=torch.float64, generator=generator) for _ in range(len(scales))
    ]
    gradients = [(_exact(c * (d @ true)), d) for c, d in zip(scales, directions, strict=True)]
    c = constants(gradients)
    comparisons = [Comparison.of(gradient, d @ c) for gradient, d in gradients]
    assert bool((c >= 0).all())
    if turned:
        assert max(x.orthogonal for x in comparisons) > 1e-3
    else:
        assert torch.allclose(c / c[0], true / true[0])
        assert max(x.orthogonal for x in comparisons) < 1e-16


def test_constants_that_differ_from_policy_to_policy_are_no_constants() -> None:
    generator = torch.Generator().manual_seed(2)
    gradients = []
    for mix in ([1.0, 0.5], [0.5, 1.0]):
        d = torch.randn(9, 2, dtype=torch.float64, generator=generator)
        gradients.append((_exact(d @ d.new_tensor(mix)), d))
    c = constants(gradients)
    assert max(Comparison.of(gradient, d @ c).orthogonal for gradient, d in gradients) > 1e-3
