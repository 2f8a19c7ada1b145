"""In float32, values that a huge value does not affect are not rounded to its size, and counts are
exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import objdsl
from objdsl.ir.differentiate import weights_of
from objdsl.ir.evaluate import Batch, evaluate

PROMPT = [7, 3, 7, 7, 3, 7]
SCORE = [1e8, 0.1, 1.0, 0.3, -3e9, 0.25]
LOG_PI = [[-0.1, -2e7], [-0.5], [-0.25, -0.125], [-3e8], [-0.3, -0.7], [-0.75]]


@pytest.mark.parametrize(
    "weight",
    [
        "sum[j != i] score",
        "mean[j != i] score",
        "mean[j != i] (score * difficulty + 1)",
        "mean[j != i] (1 if score > 0.5 else 0)",
        "sg(sum[j != i] (mean[t] log(pi)))",
        "sg(mean[j != i] (score * mean[t] (pi / old)))",
    ],
)
@pytest.mark.parametrize("form", ["{} * mean[t] log(pi)", "score * mean[t] ({} * log(pi))"])
def test_the_others_beside_a_huge_own_value(weight: str, form: str) -> None:
    body = form.format(f"({weight})")
    objective = objdsl.loads(
        "objective others\ngiven score[p,i] as reward\ngiven difficulty[p]\n"
        f"maximize mean[p,i] ({body} + score * (mean[j != i] (sum[t] log(pi))))\n"
    )
    lengths = torch.tensor([len(row) for row in LOG_PI])
    packed = {
        "log_pi": torch.tensor([x for row in LOG_PI for x in row]),
        "log_old": torch.tensor([x - 0.01 for row in LOG_PI for x in row]),
        "score": torch.tensor(SCORE),
        "difficulty": torch.tensor([float(prompt) for prompt in PROMPT]),
    }
    exact = {
        name: [part.double().numpy() for part in x.split(lengths.tolist())]
        if name.startswith("log")
        else x.double().tolist()
        for name, x in packed.items()
    }
    batch = Batch(PROMPT, lengths.tolist(), exact)
    formulas = weights_of(objective.formula)
    (expected,) = evaluate(list(formulas.values()), batch, objective.params)

    log_pi = packed.pop("log_pi")
    given = {name: x for name, x in packed.items() if name in objective.columns}
    step = objective.prepare(lengths=lengths, prompt=torch.tensor(PROMPT), **given)
    step = objective.couple(step, log_pi=log_pi)
    _, weights, _ = objective.weights(step=step, log_pi=log_pi)
    assert weights["log_pi"].dtype == torch.float32
    for row, exactly in zip(weights["log_pi"].split(lengths.tolist()), expected, strict=True):
        np.testing.assert_allclose(row.numpy(), np.broadcast_to(exactly, row.shape), rtol=1e-6)


def test_a_fraction_that_counts_elements_is_of_that_many() -> None:
    objective = objdsl.loads(
        "objective counted\nchosen = top[p,i](reward, 3 / sum[p,i] 1)\n"
        "drawn = pick[p,i,t](t > 0, 3 / sum[p,i,t] 1)\n"
        "report chosen = sum[p,i] chosen\nreport drawn = sum[p,i,t] drawn\n"
        "maximize mean[p,i,t] (reward * log(pi))\n"
    )
    for many in range(3, 200):
        step = objective.prepare(
            mask=torch.ones(many, 1, dtype=torch.bool),
            prompt=torch.zeros(many, dtype=torch.long),
            reward=torch.arange(many).float(),
            noise=torch.rand(many, 1),
        )
        _, _, reports = objective.weights(step=step, log_pi=torch.full((many, 1), -0.5))
        assert {name: x.item() for name, x in reports.items()} == {"chosen": 3, "drawn": 3}


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_weight_that_is_a_number_has_the_precision_of_the_computation(layout: str) -> None:
    objective = objdsl.loads(
        "param beta = 0.1\n"
        "maximize sum[p,i,t] (1 / 3 * log(pi)) - beta * sum[p,i,t,v] (1 / 7 * log(pi[v]))\n"
    )
    shape = {"mask": torch.ones(2, 3, dtype=torch.bool)}
    if layout == "packed":
        shape = {"lengths": torch.tensor([3, 3])}
    rows = (2, 3) if layout == "padded" else (6,)
    step = objective.prepare(prompt=[0, 1], dtype=torch.float64, **shape)
    dist = torch.full((*rows, 5), 0.2, dtype=torch.float64).log()
    _, weights, _ = objective.weights(step=step, log_pi=dist[..., 0], log_pi_dist=dist)
    for name, expected in (("log_pi", 1 / 3), ("log_pi_dist", -0.1 / 7)):
        exactly = torch.full_like(weights[name], expected, dtype=torch.float64)
        torch.testing.assert_close(weights[name], exactly, rtol=1e-15, atol=0)
