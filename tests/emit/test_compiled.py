"""Under torch.compile the emitted function is one graph, and computes the same numbers."""

from __future__ import annotations

import shutil

import pytest
import torch

import objdsl
from helpers.declared_domains import nearest
from helpers.samples import entries

LENGTHS = torch.tensor([3, 5, 1, 2, 4, 5, 2, 3])


def columns(objective: objdsl.Objective, packed: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.arange(5) < LENGTHS[:, None]
    tensors: dict[str, torch.Tensor] = {}
    for name, column in objective.columns.items():
        if column.indices == ("p", "i", "t"):
            x = -torch.rand(8, 5, dtype=torch.float64) - 0.1
        elif column.indices == ("p", "i", "t", "v"):
            x = torch.log_softmax(torch.randn(8, 5, 7, dtype=torch.float64), -1)
        elif column.indices == ("p",):
            x = torch.ones(8, dtype=torch.float64)
        elif not column.indices:
            x = torch.tensor(0.5, dtype=torch.float64)
        else:
            x = torch.tensor([1.0, 0, 0, 1, 0.5, 0, 1, 0], dtype=torch.float64)
        if name in objective.formula.domains:
            x = torch.from_numpy(nearest(objective.formula.domains[name], x))
        tensors[name] = x[mask] if packed and x.dim() > 1 else x
    rows = {"lengths": LENGTHS} if packed else {"mask": mask}
    return {**tensors, **rows, "prompt": torch.arange(8) // 2}


@pytest.mark.parametrize("name", entries())
def test_one_graph(name: str) -> None:
    torch.compiler.reset()
    objective = objdsl.load(name)
    given = columns(objective, packed=False)
    live = {k: given.pop(k) for k in objective.live}
    step = objective.prepare(**given)
    eager = objective.weights(step=step, **live)
    compiled = objdsl.load(name).compile(backend="eager").weights(step=step, **live)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor needs a C++ compiler")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["grpo", "gspo", "ppo", "dpo", "clip_cov", "kl_exact"])
def test_inductor_computes_the_same(name: str, packed: bool) -> None:
    torch.compiler.reset()
    objective = objdsl.load(name)
    given = columns(objective, packed)
    live = {k: given.pop(k) for k in objective.live}
    step = objective.prepare(**given)
    eager = objective.weights(step=step, **live)
    compiled = objdsl.load(name).compile().weights(step=step, **live)
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", entries())
def test_packed_equals_padded(name: str) -> None:
    objective = objdsl.load(name)
    results = []
    for packed in (False, True):
        given = columns(objective, packed)
        if "noise" in given:
            given["noise"] = given["noise"].exp()
        live = {k: given.pop(k) for k in objective.live}
        results.append(objective.weights(step=objective.prepare(**given), **live))
    mask = torch.arange(5) < LENGTHS[:, None]
    (value, w, reports), (packed_value, packed_w, packed_reports) = results
    torch.testing.assert_close(packed_value, value, equal_nan=True)
    torch.testing.assert_close(packed_reports, reports, equal_nan=True)
    for key in w:
        padded = w[key][mask] if w[key].dim() else w[key]
        torch.testing.assert_close(packed_w[key], padded, equal_nan=True)
