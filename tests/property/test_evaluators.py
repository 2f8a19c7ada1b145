"""Random objectives on random ragged batches: every way to compute them gives the same numbers.

A seed names an objective and its batch: `python tests/proofs.py --seed N` shows both.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import objdsl
import proofs
from helpers.evaluators import Case
from helpers.random_objectives import data

CHUNK = 25


@pytest.mark.parametrize("first", range(0, 300, CHUNK))
def test_every_evaluator_computes_the_same(first: int) -> None:
    for seed in range(first, first + CHUNK):
        assert not proofs.differences(seed, proofs.EVALUATORS), f"seed {seed}"


def test_what_is_not_defined_everywhere_is_computed_where_it_is() -> None:
    assert not proofs.failures("partial", [*range(CHUNK), 63, 95, 107, 198, 222])


@pytest.mark.parametrize("seed", [0, 1, 5])  # in 5, nothing is chosen in two groups
@pytest.mark.parametrize(
    "goal",
    [
        "mean[p,i,t] ((reward / chosen if chosen > 0 else 0) * log(pi))",
        "mean[p,i] ((sum[t] log(pi)) / chosen if chosen > 0 else sum[t] pi)",
        "mean[p,i,t] (reward / zero * pi if zero > 0 else pi)",
        "mean[p,i,t] (reward * (zero > 0) * (1 / zero) * pi + pi)",
        "mean[p,i,t] (pi * ((reward / chosen) * (chosen > 0) + 1))",
        "mean[p,i,t] (reward * (log(V_old) * (pi / old) if V_old > 0 else pi))",
        "mean[p,i,t] (reward * togo((log(pi) * log(V_old) if V_old > 0 else pi), 0.9))",
        "mean[p,i,t] (reward * (sqrt(pi - old) if pi > old else sqrt(old - pi)))",
        "mean[p] (max[i | chosen > 0] ((sum[t] log(pi)) / chosen))",
        "mean[p] ((std[i] (exp(1e4 * (mean[t] pi)) if mean[t] pi > 1 else mean[t] pi)))",
        "mean[p] ((mean[i] (sum[t] log(pi))) / (sum[i] chosen) if sum[i] chosen > 0 else 0)",
        "mean[p,i,t] (min(pi, (pi^2 / chosen if chosen > 0 else 0)))",
        "mean[p,i,t] ((pi * best if all > 0 else 0) + ((pi * best)^2 if all > 1 else 0))",
        "mean[p,i,t] ((pi * other if others > 0 else 0) + ((pi * other)^2 if others > 1 else 0))",
        "mean[p,i,t] (reward * (exp(exp(1e3 * pi)) if pi > 2 else pi)"
        " * (mean[i] (mean[t] (exp(1e3 * pi) if pi > 2 else pi))))",
    ],
)
def test_the_side_that_is_not_taken_is_not_looked_at(goal: str, seed: int) -> None:
    given = "given chosen[p,i]\nparam zero = 0\n"
    given += "all = sum[i] chosen\nbest = logsumexp[i | chosen > 0] reward\n"
    given += "others = sum[j != i] chosen[j]\n"
    given += "other = logsumexp[j != i | chosen[j] > 0] reward[j]\n"
    for keep in ("", "keep p where max[i] reward > 0.3\n"):
        text = f"objective partial\n{given}{keep}maximize {goal}\n"
        case = Case(objdsl.loads(text), data(seed))
        expected = case.reference()
        assert np.isfinite([expected.value, *np.concatenate(expected.weights["log_pi"])]).all()
        parts = torch.arange(len(case.step)).split(2)
        for numbers in (case.padded(), case.packed(), case.split(parts), case.autograd()):
            assert not [*expected.differences(numbers)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor needs a C++ compiler")
def test_inductor_computes_the_same() -> None:
    short = [seed for seed in range(300, 315) if seed % 3]  # seconds each, the long ones more
    assert not proofs.failures("compiled", short)


@pytest.mark.slow
def test_two_ranks_compute_the_same() -> None:
    assert not proofs.failures("ranks", list(range(10)))


GOAL = "maximize mean[p,i] (reward * sum[t] log(pi))"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "text",
    [
        f"report failed = mean[p,i] (1 - reward)\n{GOAL}",
        f"report total = sum[p] (1 - sum[i] reward)\n{GOAL}",
        f"report product = mean[p] sum[i] (reward * sum[i] reward)\n{GOAL}",
        f"report by_zero = (sum[p,i] margin) / (sum[p,i] (reward > 9))\n{GOAL}",
        "maximize mean[p] (1 - prod[i] (1 - reward * prod[t] (pi / old)))",
        "maximize mean[p,i] (reward * mean[i] (sum[t] log(pi)))",
        "maximize mean[p,i] (reward * sum[t] (pi / old) - 0.1 * (mean[i] (sum[t] log(pi)))^2)",
        "maximize mean[p,i] (sum[t] (reward * (pi / old)) + 0.5)",
        "maximize mean[p,i] (reward + difficulty + mean[i] (sum[t] log(pi)) + mean[p,i,t] log(pi))",
        "maximize mean[p,i | chosen] (margin * mean[i] (sum[t] log(pi))) - mean[p,i,t] reward",
        "maximize mean[p,i,t] (reward * log(pi)) + mean[p] (mean[i] reward) * mean[p,i,t] log(pi)",
    ],
)
def test_each_summand_counts_once_for_every_element(text: str, seed: int) -> None:
    given = "given margin[p,i]\ngiven chosen[p,i]\ngiven difficulty[p]\n"
    case = Case(objdsl.loads(f"objective terms\n{given}{text}\n"), data(seed))
    expected = case.reference()
    for numbers in (
        case.padded(),
        case.packed(),
        case.split(torch.arange(len(case.step)).split(2)),
    ):
        assert not [*expected.differences(numbers)]
