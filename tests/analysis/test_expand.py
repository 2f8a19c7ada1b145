"""Formulas as sums of products: long ones, and those close to on policy."""

from __future__ import annotations

import pytest

import objdsl
from objdsl import driver
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Direction
from objdsl.analysis.gradient.first_order import Reach
from objdsl.ir.objective import Objective
from objdsl.lint.run import findings
from objdsl.source import Source


def objective(body: str) -> Objective:
    return objdsl.loads(f"objective example\n{body}\n").formula


@pytest.mark.parametrize("step", ["{} * 1.01", "reward * {}", "exp(log({}))", "0.5 * {} + 0.1"])
def test_long_chains_are_read(step: str) -> None:
    chain = [f"x{k} = {step.format(f'x{k - 1}')}" for k in range(1, 300)]
    goal = "maximize mean[p,i] sum[t] (sg(x299) * reward * log(pi))"
    text = "\n".join(["objective long", "x0 = pi / old", *chain, goal, ""])
    checked = driver.check(Source("long.obj", text))
    assert checked.objective is not None
    (estimator,) = Facts(checked.objective).estimators
    assert estimator.terms


def test_what_grows_without_bound_is_left_unread() -> None:
    """The square of a sum, a thousand times: too many terms, and numbers beyond all bounds."""
    chain = "\n".join(f"x{k + 1} = x{k} * x{k} + 1" for k in range(1000))
    for start in ("pi / old", "reward"):
        body = f"x0 = {start}\n{chain}\nmaximize mean[p,i,t] (reward * x1000 * log(pi))"
        (estimator,) = Facts(objective(body)).estimators
        assert estimator.direction is Direction.UNKNOWN


def test_numbers_beyond_all_bounds_are_infinite() -> None:
    (finding,) = (
        x
        for x in findings(objective("maximize mean[p,i,t] (reward * exp(800 * exp(pi / old)))"))
        if x.name == "beyond-float32"
    )
    assert finding.message == "this overflows float32 on realistic data"


@pytest.mark.parametrize(
    "mask",
    ["r != 2", "not r == 2", "r < 1.2", "not r >= 1.2", "r > 0.8 and r < 1.2", "r < 0.8 or r > 0"],
)
def test_a_mask_that_holds_on_policy_holds_around_it(mask: str) -> None:
    order = Facts(
        objective(f"r = pi / old\nmaximize mean[p,i] sum[t] (r * reward if {mask} else 0)")
    ).first_order
    assert order is not None
    (branch,) = order.branches
    assert branch.drift == {Reach.TOKEN: 1.0}


def test_a_tie_on_policy_is_none_around_it() -> None:
    facts = Facts(objective("r = pi / old\nmaximize mean[p,i] sum[t] ((r != 1) * r * reward)"))
    assert [estimator.direction for estimator in facts.estimators] == [Direction.NONE]
