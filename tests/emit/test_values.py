"""Expressions of an objective on their own, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.driver import derivatives
from objdsl.emit.torch_source import emit_values
from objdsl.errors import InputError
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.indices import PROMPT, SCALAR, VOCAB
from objdsl.ir.nodes import Expr
from objdsl.step.values import Values

TEXT = """
objective x
param eps = 0.2 in (0, 1)
of_step = mean[p,i] reward
of_prompt = mean[i] reward
of_response = (reward - of_prompt) / (std[i] reward + eps)
of_data = of_response * log(old) + of_step
of_token = clip(pi / old, 1 - eps, 1 + eps) * of_response
of_trained_response = exp(mean[t] log(pi / old))
below = pi < old and reward > 0.4
entropy = -sum[v] (pi[v] * log(pi[v]))
of_entry = pi[v] * of_response
so_far = sum[s < t] of_data
chosen = of_token + of_trained_response * log(pi) * below + entropy + so_far + sum[v] of_entry
maximize mean[p,i,t] chosen
"""
PROMPTS = [4, 2, 2, 4, 4, 2]
LENGTHS = [3, 1, 5, 2, 5, 4]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
PARAMS = {"eps": 0.3}


def expressions(objective: objdsl.Objective) -> dict[str, Expr]:
    values = {binding.name: binding.value for binding in objective.formula.bindings}
    assert {"of_step", "of_data", "below", "of_entry", "so_far"} <= values.keys()
    return values


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    dist = torch.randn(6, 5, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    noise = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return {
        "log_pi": dist[..., 0],
        "log_pi_dist": dist,
        "log_old": dist[..., 0] - 0.3 * noise.abs(),
        "reward": torch.tensor([1.0, 0.5, 0.0, 0.25, 1.0, 1.0], dtype=torch.float64),
    }


def by_interpreter(values: dict[str, Expr]) -> dict[str, list[Any]]:
    """The values at the tokens of each response."""
    rows = {
        name: [x[row, :length].numpy() if x.dim() > 1 else float(x[row])
               for row, length in enumerate(LENGTHS)]
        for name, x in data().items()
    }  # fmt: skip
    batch = Batch(PROMPTS, LENGTHS, rows, 4)
    numbers = {}
    for (name, x), value in zip(
        values.items(), evaluate([*values.values()], batch, PARAMS), strict=True
    ):
        by_row = [value] * 6 if x.indices == SCALAR else value
        if x.indices == PROMPT:
            by_row = [value[sorted(set(PROMPTS)).index(prompt)] for prompt in PROMPTS]
        entries = (4,) if x.indices == VOCAB else ()
        numbers[name] = [
            np.broadcast_to(row, (length, *entries))
            for row, length in zip(by_row, LENGTHS, strict=True)
        ]
    return numbers


@pytest.mark.parametrize("rows", [slice(None), slice(1, 4), [5, 0]], ids=["all", "some", "picked"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("by_objective", [False, True], ids=["prepared", "known"])
def test_values_are_those_of_the_interpreter(rows: Any, layout: str, by_objective: bool) -> None:
    objective = objdsl.loads(TEXT, **PARAMS)
    values = expressions(objective)
    expected = by_interpreter(values)
    evaluated = Values(objective.formula, values, objective.params)
    given = data()
    where: dict[str, Any] = {"mask": MASK, "prompt": PROMPTS}
    if layout == "packed":
        given = {name: x[MASK] if x.dim() > 1 else x for name, x in given.items()}
        where = {"lengths": LENGTHS, "prompt": PROMPTS}
    trained = {name: given.pop(name) for name in ("log_pi", "log_pi_dist")}
    if by_objective:
        whole = objective.prepare(**where, **given)
    else:
        whole = evaluated.prepare(**where, columns=given)
    step = whole[rows]
    chosen = torch.arange(6)[rows].tolist()
    picked = whole.tokens_of(rows) if layout == "packed" else rows
    actual = evaluated(step, torch.float64, {name: x[picked] for name, x in trained.items()})
    assert [*actual] == [*values]
    for name, x in actual.items():
        want = np.concatenate([expected[name][row] for row in chosen])
        if layout == "padded":
            assert not x[~step.mask].any(), name
            x = x[step.mask]
        np.testing.assert_allclose(
            x.expand(want.shape).numpy(), want, rtol=1e-12, atol=1e-12, err_msg=name
        )


def test_what_is_known_before_training_is_asked_of_the_whole_step_once() -> None:
    objective = objdsl.loads(TEXT)
    values = {name: expressions(objective)[name] for name in ("of_data", "of_response")}
    evaluated = Values(objective.formula, values, objective.params)
    given = {name: x for name, x in data().items() if name in ("log_old", "reward")}
    step = objective.prepare(mask=MASK, prompt=PROMPTS, **given)
    parts = [evaluated(step[k : k + 2], torch.float64)["of_data"] for k in (0, 2, 4)]
    assert len(step.known) == 1
    whole = evaluated(step, torch.float64)["of_data"]
    assert torch.equal(torch.cat(parts), whole) and len(step.known) == 1


def test_columns_are_those_of_the_expressions() -> None:
    objective = objdsl.loads(TEXT)
    values = {"A": expressions(objective)["of_response"]}
    evaluated = Values(objective.formula, values, objective.params)
    assert [*evaluated.prepare.columns] == ["reward"]
    with pytest.raises(InputError, match="x reads the column 'reward' \\[N\\], which is missing"):
        evaluated.prepare(mask=MASK, prompt=PROMPTS, columns={})


def test_values_that_couple_responses_are_refused() -> None:
    formula = objdsl.load("dpo").formula
    with pytest.raises(ValueError, match="current log-probabilities of other responses"):
        emit_values(formula, {"w": next(iter(derivatives(formula).values()))}, "padded")
