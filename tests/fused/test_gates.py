"""What a schedule costs, counted and not timed, at the sizes of real models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from objdsl.fused import log_probs
from objdsl.fused.head import Head, chunks, matmul
from objdsl.fused.passes import Gradients, first_pass, one_pass, second_pass
from objdsl.plan import Coupled, Coupling, Sizes, plan

N, H, V = 8192, 4096, 128_256
UNIT = N * H * V


class Products(TorchDispatchMode):
    """Counts matrix products, in units of tokens x hidden x vocabulary, by the type they read."""

    def __init__(self) -> None:
        super().__init__()
        self.units: Counter[torch.dtype] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_"):
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            self.units[a.dtype] += a.shape[0] * a.shape[1] * b.shape[1] / UNIT
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel() * out.element_size())
        return out


def counted(schedule: str, dtype: torch.dtype, *, frozen: bool = False) -> Products:
    coupling = Coupling.STEP if schedule == "two passes" else Coupling.TOKEN
    sizes = Sizes(N, 1024, H, V, frozen_head=frozen)
    chosen = plan(Coupled(coupling, None, "pi", None), sizes)
    assert chosen.schedule == schedule
    products = Products()
    with FakeTensorMode(allow_non_fake_inputs=True), products, torch.no_grad():
        hidden, weight = torch.empty(N, H, dtype=dtype), torch.empty(V, H, dtype=dtype)
        tokens, rows = torch.zeros(N, dtype=torch.long), torch.arange(N)
        head = Head(weight)
        if schedule == "two passes":
            # Which rows have a weight is data, and here there are none: every row is counted.
            made = Gradients.empty(head, hidden, frozen=frozen)
            lse = first_pass(made, head, hidden, tokens, rows, chosen.chunk)
            second_pass(made, head, hidden, tokens, rows, lse, made.log_pi, chosen.slice)
        else:
            pieces = chunks(rows, chosen.chunk)
            made = one_pass(head, hidden, tokens, pieces, torch.exp, frozen=frozen)
    assert (made.weight is None) == frozen
    assert abs(sum(products.units.values()) - chosen.units) < 1e-9
    return products


@pytest.mark.parametrize(
    ("schedule", "frozen", "units"),
    [
        ("one pass", False, 3),
        ("one pass", True, 2),
        ("two passes", False, 4),
        ("two passes", True, 3),
    ],
)
def test_products(schedule: str, frozen: bool, units: int) -> None:
    found = counted(schedule, torch.float32, frozen=frozen)
    assert found.units == {torch.float32: pytest.approx(units)}


def test_no_tensor_is_as_large_as_the_logits() -> None:
    for schedule in ("one pass", "two passes"):
        assert counted(schedule, torch.float32).largest <= max(V * H * 4, 4 << 30) < N * V * 8


def test_narrow_products_stay_narrow_on_a_gpu() -> None:
    """bfloat16 in, float32 out: a product in float32 would leave the tensor cores."""
    products = Products()
    with FakeTensorMode(), products:
        narrow = {"dtype": torch.bfloat16, "device": "cuda"}
        hidden, weight = torch.empty(N, H, **narrow), torch.empty(V, H, **narrow)
        z, _ = Head(weight).logits(hidden, torch.empty(N, dtype=torch.long, device="cuda"))
        d = z.to(torch.bfloat16)
        by_hidden, by_weight = matmul(d, weight, z.dtype), matmul(d.T, hidden, z.dtype)
    assert products.units == {torch.bfloat16: pytest.approx(3)}
    assert {x.dtype for x in (z, by_hidden, by_weight)} == {torch.float32}


def test_narrow_inputs_lose_nothing() -> None:
    """Peaked policies in bfloat16 against float64: no clip decision differs."""
    torch.manual_seed(0)
    hidden = torch.randn(1024, 256).bfloat16()
    weight = (torch.randn(16_384, 256) / 4).bfloat16()
    log_p = torch.log_softmax(hidden.double() @ weight.double().T, -1)
    tokens = torch.multinomial(log_p.exp(), 1)
    exact = log_p.gather(-1, tokens).squeeze(-1)
    found, _ = log_probs(hidden, weight, tokens.squeeze(-1))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 1e-5
    old = exact + 0.2 * torch.randn(1024, dtype=torch.float64)
    for bound in (0.8, 1.2):
        assert torch.equal((found - old).exp() > bound, (exact - old).exp() > bound)
