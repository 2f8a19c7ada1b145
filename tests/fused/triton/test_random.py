"""Random objectives of single tokens: the function that a kernel calls, against emitted PyTorch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import objdsl
from objdsl.fused.head import Head

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

sys.path.insert(0, str(Path(__file__).parents[2] / "property"))

from objdsl.fused.triton import with_objective  # noqa: E402
from objectives import PREAMBLE, data, expressions  # noqa: E402


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(expressions("pit", 2), st.integers(0, 10**6))
def test_random_objectives(body: str, seed: int) -> None:
    objective = objdsl.loads(f"{PREAMBLE}maximize mean[p,i,t] ({body} + log(pi))\n")
    emitted = objective._emitted_kernel
    assume(emitted is not None and objective.live == ("log_pi",))
    assert emitted is not None
    case = data(seed)
    columns = {k: x[case.mask] if x.dim() > 1 else x for k, x in case.columns.items()}
    log_pi = columns.pop("log_pi").to(DEVICE)
    columns = {k: x.to(DEVICE) for k, x in columns.items()}
    lengths = case.mask.sum(-1).to(DEVICE)
    step = objective.prepare(prompt=case.prompt.to(DEVICE), lengths=lengths, **columns)
    w = objective.weights(log_pi, step)[1]["log_pi"]

    # A vocabulary of two words, of which the first was sampled; the first tokens are enough.
    rows = torch.arange(min(len(log_pi), 3), device=DEVICE)
    rest = torch.log1p(-log_pi.exp())
    z = torch.stack([log_pi, rest], -1)[rows]
    head = Head(z.new_zeros(2, 1))
    kernels = with_objective(*emitted, step, objective.params, {}, head)
    found, target = torch.zeros_like(log_pi), torch.zeros_like(rows)
    d = kernels.gradient(head, z, rows, target, found, torch.zeros_like, z.dtype)
    torch.testing.assert_close(found[rows], log_pi[rows])
    expected = torch.stack([w, -w], -1) * rest.exp()[:, None]
    torch.testing.assert_close(d, expected[rows], equal_nan=True)
