"""Random objectives of single tokens: the function that a kernel calls, against emitted PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import objdsl
from objdsl.fused.head import Head

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


from helpers.hostile_names import renamed  # noqa: E402
from helpers.random_objectives import PREAMBLE, STATES, Data, data, expressions  # noqa: E402
from objdsl.fused.triton import with_objective  # noqa: E402


def gradients(
    objective: objdsl.Objective, case: Data, names: Mapping[str, str]
) -> tuple[Tensor, Tensor]:
    """By the logits of a few tokens, from the kernel and from emitted PyTorch; log-probabilities
    are compared here.

    Args:
        names: what the objective calls the columns of the case, where that is not the same.
    """
    assert objective.fused_loss.kernel is not None
    columns = {names.get(name, name): x for name, x in case.columns.items()}
    columns = {name: columns[name].to(DEVICE) for name in objective.columns}
    columns = {name: x[case.mask] if x.dim() > 1 else x for name, x in columns.items()}
    log_pi = columns.pop("log_pi")
    lengths = case.mask.sum(-1).to(DEVICE)
    step = objective.prepare(prompt=case.prompt.to(DEVICE), lengths=lengths, **columns)
    w = objective.weights(log_pi, step)[1]["log_pi"]

    # A vocabulary of two entries, of which the first was sampled; the first tokens are enough.
    rows = torch.arange(min(len(log_pi), 3), device=DEVICE)
    rest = torch.log1p(-log_pi.exp())
    z = torch.stack([log_pi, rest], -1)[rows]
    head = Head(z.new_zeros(2, 1))
    kernels = with_objective(*objective.fused_loss.kernel, step, objective.params, {}, head)
    computed, target = torch.zeros_like(log_pi), torch.zeros_like(rows)
    d = kernels.gradient(head, z, rows, target, computed, torch.zeros_like, z.dtype)
    torch.testing.assert_close(computed[rows], log_pi[rows])
    return d, (torch.stack([w, -w], -1) * rest.exp()[:, None])[rows]


def drawn(body: str) -> tuple[str, objdsl.Objective]:
    """A random objective whose weights a kernel computes, and its text."""
    states = STATES.format("pace", "base")
    text = f"{PREAMBLE}{states}maximize mean[p,i,t] ({body} + log(pi))\n"
    objective = objdsl.loads(text)
    assume(objective.fused_loss.kernel is not None and objective.live == ("log_pi",))
    return text, objective


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(expressions("pit", 2), st.integers(0, 10**6))
def test_random_objectives(body: str, seed: int) -> None:
    _, objective = drawn(body)
    d, expected = gradients(objective, data(seed), {})
    torch.testing.assert_close(d, expected, equal_nan=True)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(expressions("pit", 2), st.integers(0, 10**6))
def test_the_same_under_hostile_names(body: str, seed: int) -> None:
    text, plain = drawn(body)
    other, names, _ = renamed(text, seed)
    names["log_teacher"] = f"log_{names['teacher']}"
    case = data(seed)
    expected, _ = gradients(plain, case, {})
    d, _ = gradients(objdsl.loads(other), case, names)
    torch.testing.assert_close(d, expected, rtol=1e-12, atol=1e-14, equal_nan=True)
