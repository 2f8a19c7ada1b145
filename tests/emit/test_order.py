"""`median`, `quantile`, `rank`, `trim` and `top`: ties, ragged groups, masks, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import objdsl
from helpers.autograd_evaluator import derivative
from objdsl.errors import ObjectiveError
from objdsl.ir.evaluate import Batch, evaluate

# Two groups, of four and of three; lengths 1 to 4; the first group ties at 1.
PROMPT = [7, 3, 7, 7, 3, 7, 3]
REWARD = [1.0, 0.5, 1.0, 2.0, -1.0, 0.0, 0.5]
LENGTH = [1, 3, 2, 4, 2, 1, 3]


def _data() -> tuple[Batch, dict[str, Any], torch.Tensor]:
    rng = np.random.default_rng(4)
    mask = np.arange(4) < np.array(LENGTH)[:, None]
    columns: dict[str, Any] = {
        "reward": np.array(REWARD),
        "log_pi": rng.uniform(-3, -0.1, (7, 4)),
        "log_old": rng.uniform(-3, -0.1, (7, 4)),
        "x": rng.integers(0, 3, (7, 4)).astype(float),
    }
    ragged = {
        name: [x[r, : LENGTH[r]] if x.ndim > 1 else x[r] for r in range(7)]
        for name, x in columns.items()
    }
    padded = {
        name: torch.from_numpy(np.where(mask, x, np.nan) if x.ndim > 1 else x)
        for name, x in columns.items()
    }
    return Batch(PROMPT, LENGTH, ragged), padded, torch.from_numpy(mask)


def _of(expression: str) -> list[float]:
    formula = objdsl.loads(
        f"objective x\ngiven x[p,i,t]\nA = {expression}\nmaximize mean[p,i,t] (A * log(pi))\n"
    ).formula
    batch, _, _ = _data()
    (values,) = evaluate([formula.bindings[0].value], batch)
    return [float(value) for value in values]


def test_what_statistics_are() -> None:
    """Computed by numpy; prompts stand in the order of their ids, 3 and 7."""
    groups = [[0.5, -1.0, 0.5], [1.0, 1.0, 2.0, 0.0]]
    assert _of("median[i] reward") == [np.median(g) for g in groups]
    for at in (0, 0.25, 0.4, 0.9, 1):
        wanted = [np.quantile(g, at) for g in groups]
        assert _of(f"quantile[i](reward, {at})") == pytest.approx(wanted, abs=1e-12)
    assert _of("quantile[i | reward > 5](reward, 0.3)") == [0, 0]
    assert _of("median[i | reward > 0] reward") == [0.5, 1.0]
    assert _of("rank[i] reward") == [2, 2, 2, 4, 1, 1, 2]
    assert _of("rank[i | reward > 0] reward") == [1, 1, 1, 3, 1, 1, 1]
    assert _of("rank[p,i] reward") == [5, 3, 5, 7, 1, 2, 3]
    assert _of("median[i,t] reward") == [0.5, 1.5]


def test_what_trim_keeps() -> None:
    """0, 1, 1, 2 have the means 0, 1/2, 2/3, 1 so far; the two that tie go together."""
    kept = [
        _of(f"1 if trim[i](reward, {limit}) else 0") for limit in (-0.1, 0, 0.5, 0.667, 0.99, 1)
    ]
    assert [[row[k] for k in (5, 0, 2, 3)] for row in kept] == [
        [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1],
    ]  # fmt: skip
    assert _of("1 if trim[i | reward != 1](reward, 1) else 0")[:4] == [0, 1, 0, 1]


GOALS = [
    "mean[p,i] ((reward - median[i] reward) * sum[t] log(pi))",
    "mean[p,i] ((rank[i] reward) / (sum[i] 1) * sum[t] log(pi))",
    "mean[p] quantile[i](mean[t] (pi / old), 0.3) + median[p,i,t] log(pi)",
    "mean[p,i] median[t] (x * log(pi))",
    "mean[p] median[i] (reward * max[t] log(pi))",
    "mean[p,i,t] (log(pi) if trim[p,i,t](log(pi / old)^2, 0.3) else 0)",
    "mean[p,i,t] (log(pi) if trim[i,t | x > 0](log(pi / old)^2, 0.3) else 0)",
    "mean[p,i,t] (log(pi) * (rank[t] x) + log(pi) * (rank[p,i,t | x < 2] pi))",
    "mean[p,i,t | top[p,i,t | x > 0](pi / old, 0.5)] log(pi)",
    "mean[p] quantile[i,t](min(pi / old, 1.2), 0.9)",
]


@pytest.mark.parametrize("goal", GOALS)
def test_every_way_is_the_interpreter_s(goal: str) -> None:
    """Value and gradient: padded, packed, row by row after `couple`, and autograd."""
    given = objdsl.loads(f"objective x\ngiven x[p,i,t]\nmaximize {goal}\n")
    batch, columns, mask = _data()
    wanted, gradient = derivative(given.formula.goal, batch, {})
    (value,) = evaluate([given.formula.goal], batch)
    assert value == pytest.approx(wanted, abs=1e-12)
    expected = torch.zeros(7, 4, dtype=torch.float64)
    for (row, t), g in gradient["log_pi"].items():
        expected[row, t] = g
    read = {name: columns[name] for name in given.columns if name != "log_pi"}
    step = given.prepare(prompt=PROMPT, mask=mask, **read)
    log_pi = columns["log_pi"]
    whole = given.couple(step, log_pi) if given.needs_couple else step
    J, weights, _ = given.weights(log_pi, whole)
    assert float(J) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(weights["log_pi"], expected, atol=1e-12, rtol=0)
    parts = [given.weights(log_pi[k : k + 1], whole[k : k + 1]) for k in range(7)]
    assert sum(float(part[0]) for part in parts) == pytest.approx(wanted, abs=1e-12)
    for k, part in enumerate(parts):
        torch.testing.assert_close(part[1]["log_pi"][0], expected[k], atol=1e-12, rtol=0)
    lengths = torch.tensor(LENGTH)
    packed = {name: x[mask] if x.dim() > 1 else x for name, x in read.items()}
    flat = given.prepare(prompt=PROMPT, lengths=lengths, **packed)
    flat = given.couple(flat, log_pi[mask]) if given.needs_couple else flat
    J, weights, _ = given.weights(log_pi[mask], flat)
    assert float(J) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(weights["log_pi"], expected[mask], atol=1e-12, rtol=0)


def test_ties_share_the_gradient_of_a_quantile() -> None:
    given = objdsl.loads("objective x\nmaximize median[p,i,t] log(pi)\n")
    log_pi = torch.tensor([[-1.0], [-1.0], [-1.0], [-0.5]], dtype=torch.float64)
    step = given.prepare(prompt=[0, 0, 0, 0], mask=torch.ones(4, 1), dtype=torch.float64)
    _, weights, _ = given.weights(log_pi, step)
    assert weights["log_pi"][:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_what_is_not_at_the_quantile_may_be_infinite() -> None:
    text = "objective x\ngiven x[p,i]\nmaximize mean[p,i] ((median[i] log(x)) * sum[t] pi)\n"
    given = objdsl.loads(text)
    batch = Batch([0] * 3, [1] * 3, {"x": [0.0, math.e, 9.0], "log_pi": [[-1.0]] * 3})
    assert evaluate([given.formula.goal], batch) == [pytest.approx(math.exp(-1))]
    x = torch.tensor([0.0, math.e, 9.0], dtype=torch.float64)
    step = given.prepare(prompt=[0] * 3, mask=torch.ones(3, 1), x=x)
    value, _, _ = given.weights(-torch.ones(3, 1, dtype=torch.float64), step)
    assert float(value) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("word", ["median", "quantile", "rank", "trim"])
def test_a_name_of_the_file_wins(word: str) -> None:
    given = objdsl.loads(
        f"objective x\nparam {word} = 0.5\nmaximize mean[p,i] ({word} * reward * sum[t] log(pi))\n"
    )
    assert [param.name for param in given.formula.params] == [word]
    called = f"objective x\ndef {word}(x) = 2 * x\nmaximize mean[p,i] ({word}(reward) * sum[t] pi)"
    assert objdsl.loads(called).formula.columns.keys() == {"reward", "log_pi"}
    with pytest.raises(ObjectiveError, match=f"`{word}` is a name of this file"):
        objdsl.loads(
            f"objective x\nparam {word} = 0.5\nA = {word}[i] reward\n"
            "maximize mean[p,i] (A * sum[t] pi)\n"
        )
