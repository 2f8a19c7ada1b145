"""Random objectives on random ragged batches: every way to compute them gives the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import objdsl
from objdsl.diagnostic import ObjectiveError
from objdsl.differentiate import weights_of
from objdsl.emit.reference import Batch, evaluate
from objdsl.ir.objective import column_of

sys.path.insert(0, str(Path(__file__).parent))

from autograd import derivative

from objectives import Data, data, objectives

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)


def load(text: str) -> objdsl.Objective:
    try:
        return objdsl.loads(text)
    except ObjectiveError as error:  # the message, rather than the traceback, says what to mend
        pytest.fail(f"{text}\n{error}")


def padded(
    objective: objdsl.Objective, case: Data
) -> tuple[Any, objdsl.Step, dict[str, torch.Tensor]]:
    known = {k: v for k, v in case.columns.items() if k not in objective.live}
    step = objective.prepare(mask=case.mask, prompt=case.prompt, **known)
    return objective, step, {k: case.columns[k] for k in objective.live}


def oracle(
    objective: objdsl.Objective, case: Data
) -> tuple[float, dict[str, Any], dict[str, float]]:
    formula = objective.formula
    weights = weights_of(formula)
    reports = [report.value for report in formula.reports]
    values = evaluate([formula.goal, *weights.values(), *reports], case.batch, objective.params)
    found = {
        column_of(leaf): [
            np.broadcast_to(_at_row(w, weight.indices, case.batch, row), np.shape(x))
            for row, x in enumerate(case.batch.columns[column_of(leaf)])
        ]
        for (leaf, weight), w in zip(weights.items(), values[1:], strict=False)
    }
    names = [report.name for report in formula.reports]
    return values[0], found, dict(zip(names, values[1 + len(weights) :], strict=True))


def _at_row(value: Any, indices: Any, batch: Batch, row: int) -> Any:
    """A value of the reference at one row; it may carry fewer indices than the leaf."""
    if not indices:
        return value
    if indices == ("p",):
        return value[next(p for p, group in enumerate(batch.groups) if row in group)]
    return value[row]


def close(a: Any, b: Any, tolerance: float) -> bool:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return bool(
        np.allclose(
            a, b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max(initial=0)), equal_nan=True
        )
    )


@SETTINGS
@given(objectives(), st.integers(0, 10**6))
def test_emitted_padded_code_equals_the_reference(text: str, seed: int) -> None:
    objective, case = load(text), data(seed)
    value, weights, reports = oracle(objective, case)
    _, step, live = padded(objective, case)
    got, w, got_reports = objective.weights(step=step, **live)
    assert close(got, value, 1e-12)
    for name, expected in weights.items():
        for row, x in enumerate(expected):
            assert close(w[name][row, : len(x)], x, 1e-10)
            assert not w[name][row, len(x) :].any()
    for name, x in reports.items():
        assert close(got_reports[name], x, 1e-12)


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
    objective, case = load(f"objective terms\n{given}{text}\n"), data(seed)
    value, _, reports = oracle(objective, case)
    _, step, live = padded(objective, case)
    got, _, got_reports = objective.weights(step=step, **live)
    assert close(got, value, 1e-12)
    for name, x in reports.items():
        assert close(got_reports[name], x, 1e-12)


@SETTINGS
@given(objectives(), st.integers(0, 10**6))
def test_packed_equals_padded(text: str, seed: int) -> None:
    objective, case = load(text), data(seed)
    _, step, live = padded(objective, case)
    value, w, reports = objective.weights(step=step, **live)
    tokens = {k: x[case.mask] if x.dim() > 1 else x for k, x in case.columns.items()}
    packed = objective.prepare(
        lengths=case.mask.sum(-1),
        prompt=case.prompt,
        **{k: x for k, x in tokens.items() if k not in objective.live},
    )
    got, got_w, got_reports = objective.weights(
        step=packed, **{k: tokens[k] for k in objective.live}
    )
    assert close(got, value, 1e-12)
    for name in w:
        assert close(got_w[name], w[name][case.mask], 1e-10)
    for name in reports:
        assert close(got_reports[name], reports[name], 1e-12)


@SETTINGS
@given(objectives(), st.integers(0, 10**6))
def test_weights_are_the_derivative_that_autograd_finds(text: str, seed: int) -> None:
    objective, case = load(text), data(seed)
    value, weights, _ = oracle(objective, case)
    expected, gradients = derivative(objective.formula.goal, case.batch, objective.params)
    assert close(value, expected, 1e-12)
    for name, elements in gradients.items():
        for (row, *where), g in elements.items():
            w = weights[name][row][tuple(where)] if name in weights else 0.0
            assert close(w, g, 1e-9), (name, row, where)


@SETTINGS
@given(objectives(), st.integers(0, 10**6), st.integers(1, 9))
def test_micro_batches_add_up_to_the_step(text: str, seed: int, many: int) -> None:
    objective, case = load(text), data(seed)
    _, step, live = padded(objective, case)
    live = {
        k: torch.where(case.mask if x.dim() == 2 else case.mask[..., None], x, 0.0)
        for k, x in live.items()
    }
    whole, w, reports = objective.weights(step=step, **live)
    step = objective.couple(step, **live)
    torch.manual_seed(seed)
    parts = torch.randperm(len(step)).tensor_split(many)
    total, sums = torch.zeros((), dtype=torch.float64), dict.fromkeys(reports, 0.0)
    for rows in (part for part in parts if len(part)):
        out = objective.weights(step=step[rows], **{k: x[rows] for k, x in live.items()})
        total = total + out[0]
        for name in w:
            assert close(out[1][name], w[name][rows], 1e-12)
        for name, x in out[2].items():
            sums[name] = sums[name] + x
    assert close(total, whole, 1e-12)
    for name in reports:
        assert close(sums[name], reports[name], 1e-11)


@settings(SETTINGS, max_examples=12)
@given(objectives(depth=2), st.integers(0, 10**6))
def test_one_compiled_graph_computes_the_same(text: str, seed: int) -> None:
    """The whole function is captured, or torch raises. What a backend does with the graph is
    tested with fewer objectives: it takes seconds for each."""
    torch.compiler.reset()
    objective, case = load(text), data(seed)
    _, step, live = padded(objective, case)
    eager = objective.weights(step=step, **live)
    compiled = load(text).compile(backend="aot_eager").weights(step=step, **live)
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12, equal_nan=True)
