"""Models in bfloat16, by every schedule, against float64 on the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.analysis.schedule.plan import legal
from objdsl.fused.loss import FusedLoss

ROWS, LENGTH, H, V = 8, 64, 64, 4096
BONUS = """
objective bonus
entropy = -sum[v] (pi[v] * log(pi[v]))
maximize mean[p,i,t] (reward * log(pi) + 0.1 * entropy)
"""
OBJECTIVES = {name: objdsl.load(name) for name in ("reinforce", "grpo", "gspo", "clip_cov")} | {
    "bonus": objdsl.loads(BONUS)
}


def scene() -> dict[str, Tensor]:
    """Peaked policies; rewards without ties, and every second response half as long."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, LENGTH, H), torch.randn(V, H) / 2
    hidden, weight = hidden.bfloat16().double(), weight.bfloat16().double()
    log_p = torch.log_softmax(hidden @ weight.T, -1)
    tokens = torch.multinomial(log_p.flatten(0, 1).exp(), 1).view(ROWS, LENGTH)
    near = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    lengths = torch.tensor([LENGTH, LENGTH // 2] * (ROWS // 2))
    return {
        "hidden": hidden, "weight": weight, "tokens": tokens, "reward": torch.rand(ROWS).double(),
        "log_old": near + 0.1 * torch.randn(ROWS, LENGTH).double(),
        "log_ref": near + 0.1 * torch.randn(ROWS, LENGTH).double(),
        "prompt": torch.arange(ROWS) // 4, "mask": torch.arange(LENGTH) < lengths[:, None],
    }  # fmt: skip


def prepared(objective: objdsl.Objective, data: dict[str, Tensor]) -> Any:
    columns: dict[str, Any] = {name: data[name] for name in objective.columns if name in data}
    generator = torch.Generator().manual_seed(0)
    return objective.prepare(
        **columns, prompt=data["prompt"], mask=data["mask"], generator=generator
    )


def exact(objective: objdsl.Objective, data: dict[str, Tensor]) -> tuple[Any, Tensor, list[Tensor]]:
    """The same through logits and autograd, in float64."""
    leaves = [data[name].clone().requires_grad_() for name in ("hidden", "weight")]
    log_p = torch.log_softmax(leaves[0] @ leaves[1].T, -1)
    log_pi = log_p.gather(-1, data["tokens"][..., None]).squeeze(-1)
    live = {name: log_p if name.endswith("_dist") else log_pi for name in objective.live}
    out = objective(step=prepared(objective, data), **live)
    out.loss.backward()
    return out, log_pi.detach(), [x.grad for x in leaves if x.grad is not None]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_narrow_models(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedLoss, "fewest_tokens", 32)
    objective, data = OBJECTIVES[name], scene()
    out, log_pi, gradients = exact(objective, data)
    there = {key: x.to(device) for key, x in data.items()}
    step = prepared(objective, there)
    for kernels in ("torch",) if device == "cpu" else ("torch", "triton"):
        for schedule in legal(objective.fused_loss.coupled):
            for budget in (1 << 20, 4 << 30):
                leaves = [there[x].bfloat16().requires_grad_() for x in ("hidden", "weight")]
                actual = objective.fused(
                    leaves[0], leaves[1], there["tokens"], step, schedule=schedule, budget=budget,
                    kernels=kernels,
                )  # fmt: skip
                actual.loss.backward()
                assert actual.log_pi is not None
                errors = (actual.log_pi.cpu() - log_pi)[data["mask"]].abs()
                assert float(errors.max()) <= 1e-5
                torch.testing.assert_close(
                    actual.value.cpu().double(), out.value, rtol=1e-5, atol=1e-6
                )
                for leaf, expected in zip(leaves, gradients, strict=True):
                    assert leaf.grad is not None
                    error = leaf.grad.cpu().double() - expected
                    assert error.norm() <= 5e-3 * expected.norm()
