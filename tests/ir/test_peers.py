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


# A dozen responses to two prompts, with ties, and two or three parents at each.
ORDERED = Batch(
    prompt=[1] * 8 + [2] * 4,
    lengths=[1] * 12,
    columns={
        "reward": [1.0, 0.0, 1.0, 2.0, 1.0, 0.5, -1.0, 2.0, 0.5, 0.5, 0.25, 3.0],
        "parent": [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 1.0, 1.0, 2.0, 2.0],
    },
)
ORDERS = [
    "rank[i{}] reward", "median[i{}] reward", "quantile[i{}](reward, 0.3)",
    "quantile[i{}](reward, 1)", "quantile[i{}](reward, at)", "1 if top[i{}](reward, 0.5) else 0",
    "1 if top[i{}](reward, 0.75) else 0", "1 if topk[i{}](reward, 2) else 0",
    "1 if trim[i{}](reward, 0.6) else 0", "1 if trim[i{}](reward, -1) else 0",
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mask", ["", "reward < 2"])
def test_an_order_by_a_key_is_that_of_its_elements(order: str, mask: str) -> None:
    """A reduction by a key equals one over the elements that a mask picks."""
    masks = [f" | {' and '.join(filter(None, (f'parent == {k}', mask)))}" for k in (1, 2, 3)]
    brackets = [" by parent" + (f" | {mask}" if mask else ""), *masks]
    bindings = "".join(f"x{k} = {order.format(text)}\n" for k, text in enumerate(brackets))
    objective = objdsl.loads(
        "objective x\nparam at = 0.7\ngiven parent[p,i]\n"
        f"{bindings}maximize mean[p,i,t] ((x0 + x1 + x2 + x3) * log(pi))\n"
    ).formula
    nodes = {binding.name: binding.value for binding in objective.bindings}
    rows = evaluate([nodes[f"x{k}"] for k in range(4)], ORDERED, {"at": 0.7})
    of_prompts = [row if len(row) == 12 else [row[0]] * 8 + [row[1]] * 4 for row in rows]
    parents = ORDERED.columns["parent"]
    wanted = [of_prompts[int(parents[k])][k] for k in range(12)]  # type: ignore[arg-type]
    assert of_prompts[0] == pytest.approx(wanted, abs=1e-12)
