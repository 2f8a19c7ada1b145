"""Reductions by keys and over others, against results computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

import objdsl
from objdsl.ir.evaluate import Batch, evaluate

BATCH = Batch(
    prompt=[7, 7, 7, 3],
    lengths=[3, 2, 1, 2],
    columns={
        "reward": [1.0, 0.0, 0.5, 2.0],
        "parent": [1.0, 1.0, 2.0, 1.0],
        "turn": [[1.0, 1.0, 2.0], [1.0, 2.0], [1.0], [1.0, 1.0]],
        "V_old": [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0], [7.0, 9.0]],
        "log_pi": [[0.0] * 3, [0.0] * 2, [0.0], [0.0] * 2],
    },
)
BATCH.columns["value_old"] = BATCH.columns["V_old"]  # type: ignore[index]

CASES: list[tuple[str, Any]] = [
    ("mean[i by parent] reward", [0.5, 0.5, 0.5, 2.0]),
    ("sum[j != i by parent] reward", [0.0, 1.0, 0.0, 0.0]),
    ("sum[t by turn] V_old", [[3.0, 3.0, 3.0], [4.0, 5.0], [6.0], [16.0, 16.0]]),
    ("mean[i by t] V_old", [[11 / 3, 3.5, 3.0], [11 / 3, 3.5], [11 / 3], [7.0, 9.0]]),
    ("mean[i,t by turn] V_old", [[3.25, 3.25, 4.0], [3.25, 4.0], [3.25], [8.0, 8.0]]),
    (
        "mean[i,t by turn | first(turn)] reward",
        [[0.5, 0.5, 0.5], [0.5, 0.5], [0.5], [2.0, 2.0]],
    ),
    ("mean[i,t by turn] reward", [[0.625, 0.625, 0.5], [0.625, 0.5], [0.625], [2.0, 2.0]]),
    ("sum[t | first(turn)] 1", [2.0, 2.0, 1.0, 1.0]),
    ("count[t by turn]", [[2.0, 2.0, 1.0], [1.0, 1.0], [1.0], [2.0, 2.0]]),
    ("sum[s < t by turn] V_old", [[0.0, 1.0, 0.0], [0.0, 0.0], [0.0], [0.0, 7.0]]),
    ("max[s <= t] V_old", [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0], [7.0, 9.0]]),
    ("std[i by parent] reward", [0.5**0.5, 0.5**0.5, 0.0, 0.0]),
    ("max[j != i] reward", [0.5, 1.0, 1.0, 0.0]),
    ("std[j != i] reward", [0.125**0.5, 0.125**0.5, 0.5**0.5, 0.0]),
    ("max[j != i | parent == 2] reward", [0.5, 0.5, 0.0, 0.0]),
    ("mean[j != i] max(reward[j], reward[i])", [1.0, 0.75, 0.75, 0.0]),
    ("sum[j != i] (reward[j] < reward[i])", [2.0, 0.0, 1.0, 0.0]),
    ("mean[p,i by parent] reward", [1.0, 1.0, 0.5, 1.0]),
    ("sum[j != i, t by turn] V_old", [[10.0, 10.0, 5.0], [9.0, 3.0], [7.0], [0.0, 0.0]]),
]


def value(expression: str) -> Any:
    objective = objdsl.loads(
        "objective x\ngiven parent[p,i]\ngiven turn[p,i,t]\n"
        f"x = {expression}\nmaximize mean[p,i,t] (x * log(pi))\n"
    )
    node = next(binding.value for binding in objective.formula.bindings if binding.name == "x")
    return evaluate([node], BATCH)[0]


@pytest.mark.parametrize(("expression", "expected"), CASES)
def test_values(expression: str, expected: Any) -> None:
    values = value(expression)
    flat = [x for row in values for x in row] if isinstance(values[0], list) else values
    wanted = [x for row in expected for x in row] if isinstance(expected[0], list) else expected
    assert flat == pytest.approx(wanted, abs=1e-12)
