"""How a weight changes close to on policy: read off the formula, and summed over all outcomes.

For each reading, such as "the token's own ratio, to the power 0.5", there is a plain objective with
exactly that weight. Close to on policy the expected gradients of both change alike.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import Order, Powers, Reach
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.world import world
from objdsl.lint.run import findings
from objdsl.objectives import gallery

WORLD = world(2, 3)
SIZE = 1e-4

RATIOS = ["(pi / old)", "(old / mu)", "(pi / mu)"]
RUNS = [
    "{}", "geo({})", "(prod[t] {})", "(prod[s <= t] {})", "(mean[t] {})", "sqrt({})",
    "(prod[s < t] {})", "exp(sum[s > t] log({}))",
]  # fmt: skip
SMOOTH = [
    "{x}", "({x}^2)", "sqrt({x})", "exp({c} * ({x} - 1))", "(2 * sigmoid({c} * ({x} - 1)))",
    "(1 + {c} * log({x}))", "min({x}, 3)", "max({x}, 0.2)", "clip({x}, 0.5, 2)",
    "(({x} + {c}) / (1 + {c}))", "(1 / {x})", "(2 - {x})", "(1 + logsigmoid({c} * log({x})))",
    "abs({x} + {c})", "max({x} * 2, {x} - 1)", "min({x}, {x}^1)", "(1 - {c} * ({x} - 1)^2)",
]  # fmt: skip
JOINED = ["({} * {})", "(({} + {}) / 2)", "min({} + 1, {} + 3)", "({} / {})", "({}^({}))"]
GOALS = [
    "mean[p,i] sum[t] (sg({}) * A * log(pi))",
    "mean[p,i] ((sum[t] (sg({}) * A * log(pi))) / 3)",
]
CANONICAL = {
    Reach.TOKEN: "{}^({})",
    Reach.MEAN: "geo({})^({})",
    Reach.BEFORE: "(prod[s < t] {})^({})",
    Reach.AFTER: "exp(sum[s > t] log({}))^({})",
    Reach.PREFIX: "(prod[s <= t] {})^({})",
    Reach.SEQUENCE: "(prod[t] {})^({})",
}


def smooth(draw: random.Random, depth: int) -> str:
    """A weight, computed from ratios, that has a derivative where they are 1."""
    if depth == 0:
        return draw.choice(RUNS).format(draw.choice(RATIOS))
    if draw.random() < 0.4:
        return draw.choice(JOINED).format(smooth(draw, depth - 1), smooth(draw, depth - 1))
    return draw.choice(SMOOTH).format(x=smooth(draw, depth - 1), c=draw.choice([0.5, 0.7, 1.3]))


def text(goal: str, advantage: str = "reward - mean[j != i] reward") -> str:
    return f"objective random\nA = {advantage}\nsample from mu: group 2\nmaximize {goal}\n"


def product(powers: Powers, ratio: str) -> str:
    return " * ".join(["1", *(CANONICAL[r].format(ratio, repr(x)) for r, x in powers.items())])


def weight(order: Order) -> str:
    return f"{product(order.drift, '(pi / old)')} * {product(order.engine, '(old / mu)')}"


def change(goal: str, advantage: str, seed: int) -> tuple[Tensor, Tensor]:
    """The expected gradient on policy, and its change when the policy moves away."""
    objective = objdsl.loads(text(goal, advantage))
    generator = torch.Generator().manual_seed(seed)
    shape = (1, WORLD.states, WORLD.vocabulary)
    pi, drift, engine = (torch.randn(shape, generator=generator).double() for _ in range(3))
    reward = torch.randn(1, WORLD.responses, generator=generator).double()
    draws = all_draws(WORLD.responses, 1, 2)

    def at(size: float) -> Tensor:
        old = pi + size * drift
        policies = {"pi": pi, "old": old, "mu": old + size * engine}
        return expected(objective, Instance(WORLD, policies, {"reward": reward}), draws).mean

    return at(0.0), (at(SIZE) - at(-SIZE)) / (2 * SIZE)


def assert_alike(goal: str, canonical: str, advantage: str, seed: int) -> None:
    here, there = change(goal, advantage, seed), change(canonical, advantage, seed)
    scale = float(here[0] @ there[0] / (there[0] @ there[0]))
    assert torch.allclose(here[0], scale * there[0], rtol=1e-9, atol=1e-12), goal
    size = max(float(here[0].norm()), float(here[1].norm()))
    assert float((here[1] - scale * there[1]).norm()) < 1e-5 * size, goal


@pytest.mark.parametrize("seed", range(80))
def test_a_smooth_weight_changes_as_it_is_read(seed: int) -> None:
    draw = random.Random(seed)
    goal = draw.choice(GOALS).format(smooth(draw, draw.randrange(1, 4)))
    order = Facts(objdsl.loads(text(goal)).formula).first_order
    assert order is not None, goal
    assert not order.kinks, goal
    (branch,) = order.branches
    powers = {**branch.drift, **branch.engine}
    assert not any(math.isnan(power) for power in powers.values()), goal
    canonical = GOALS[0].format(weight(branch))
    assert_alike(goal, canonical, "reward - mean[j != i] reward", seed)


@pytest.mark.parametrize("seed", range(20))
def test_each_branch_is_read_by_itself(seed: int) -> None:
    draw = random.Random(1000 + seed)
    sides = [smooth(draw, 1) for _ in range(2)]
    advantage = draw.choice(["reward - 0.1", "clip(reward, -1, 0.5)", "reward^3 - mean[i] reward"])
    texts = [*sides, "{} if A > 0 else {}".format(*sides), "{1} if A <= 0 else {0}".format(*sides)]
    readings = []
    for side in texts:
        order = Facts(objdsl.loads(text(GOALS[0].format(side), advantage)).formula).first_order
        assert order is not None
        readings.append([(branch.drift, branch.engine) for branch in order.branches])
    (first,), (second,), *both = readings
    for branches in both:
        assert first in branches
        assert second in branches
        assert len(branches) == (1 if first == second else 2)


@pytest.mark.parametrize(
    ("value", "drift"),
    [
        ("A * (2 * sigmoid(2 * (pi / old - 1)))", {Reach.TOKEN: 1.0}),
        (
            "surrogate(pi / old, clip(A / (std[i] reward + 1e-4), -1, 1), 0.8, 1.2)",
            {Reach.TOKEN: 1},
        ),
        ("surrogate(pi / old, max(A, 0), 0.8, 1.2)", {Reach.TOKEN: 1.0}),
        ("A * log(pi / old)", {}),
        ("(pi / old)^2 * A", {Reach.TOKEN: 2.0}),
        (
            "sg((prod[t] (pi / mu))^2 * exp(3 * (1 - prod[t] (pi / mu)))) * A * log(pi)",
            {Reach.SEQUENCE: -1.0},
        ),
        ("sg(pi / old / mean[j != i] mean[t] (pi / old)) * A * log(pi)", {Reach.TOKEN: 1.0}),
    ],
)
def test_weights_of_papers_are_read(value: str, drift: Powers) -> None:
    order = Facts(objdsl.loads(text(f"mean[p,i] sum[t] ({value})")).formula).first_order
    assert order is not None
    assert [branch.drift for branch in order.branches] == [drift]


@pytest.mark.parametrize(
    "value",
    [
        "sg(min(pi / old, 1)) * A * log(pi)",
        "sg(abs(log(pi / old)) + 1) * A * log(pi)",
        "(A if pi <= old else 0) * log(pi)",
        "sg(max[t] (pi / old)) * A * log(pi)",
        "sg(1 + std[t] (pi / old)) * A * log(pi)",
        "(0 if top[t](pi / old, 0.5) else A) * log(pi)",
    ],
)
def test_a_kink_on_policy_is_no_derivative(value: str) -> None:
    order = Facts(objdsl.loads(text(f"mean[p,i] sum[t] ({value})")).formula).first_order
    assert order is not None
    assert order.kinks
    assert any(Reach.KINK in branch.drift for branch in order.branches)
    assert not order.exact


@pytest.mark.parametrize("name", ["sapo", "clip_cov", "differential_smoothing"])
def test_the_gallery_is_read_off_policy(name: str) -> None:
    codes = {finding.code for finding in findings(objdsl.load(name).formula)}
    assert {"OBJ401", "OBJ403"} <= codes


@pytest.mark.parametrize(
    "goal",
    [
        "mean[p,i] sum[t] (2 * sigmoid(2 * (pi / old - 1)) * A)",
        "mean[p,i] (log(prod[t] (pi / old)) * A)",
        "mean[p,i] sum[t] (pi / old * max(A, 0))",
        "mean[p,i] sum[t] surrogate(pi / old, clip(A, -1, 1), 0.8, 1.28)",
        "mean[p,i] sum[t] (pi / old * A if A > 0 else min(pi / old, 2) * A)",
        "mean[p,i] sum[t] (pi / old * A if A > 0 else A * log(pi))",
        "mean[p,i] sum[t] (pi / old * (A if reward > 0 else 0))",
    ],
)
def test_no_form_hides_an_uncorrected_sampler(goal: str) -> None:
    codes = {finding.code for finding in findings(objdsl.loads(text(goal)).formula)}
    assert {"OBJ401", "OBJ403"} <= codes


def test_every_objective_of_the_gallery_with_a_reward_is_read() -> None:
    for name in gallery.names():
        facts = Facts(objdsl.load(name).formula)
        assert (facts.first_order is not None) == bool(facts.rewarded), name
