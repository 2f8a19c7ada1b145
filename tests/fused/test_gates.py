"""What a schedule costs, counted and not timed, at the sizes of real models.

Tensors are on the device `meta`: they have shapes and types, no numbers, and multiply as on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from objdsl.analysis.coupling import Coupled, Coupling, Separated
from objdsl.fused import log_probs
from objdsl.fused.counts import Counts
from objdsl.fused.head import Head, chunks
from objdsl.fused.passes import Gradients, first_pass, one_pass, scaled_pass, second_pass
from objdsl.ir import build as ir
from objdsl.plan import BUDGET, Plan, Schedule, Sizes, plan

N, H, V = 8192, 4096, 128_256
ONE: Schedule = "one pass"
TWO: Schedule = "two passes"
SCALED: Schedule = "one pass, scaled afterwards"


@dataclass(frozen=True)
class Costs:
    """`scratch` is what was alive besides the inputs and the gradients that come out."""

    plan: Plan
    units: dict[torch.dtype, float]
    moved: float
    scratch: int


def counted(schedule: Schedule, dtype: torch.dtype, n: int = N, v: int = V, **kind: Any) -> Costs:
    coupled = Coupled(Coupling.STEP if schedule == TWO else Coupling.TOKEN, None, "pi", None)
    if schedule == SCALED:
        coupled = Coupled(Coupling.RESPONSE, None, "pi", None, Separated(ir.ONE, ir.ONE))
    frozen = kind.get("frozen_head", False)
    sizes = Sizes(n, 8192, H, v, narrow=dtype.itemsize, **kind)
    chosen = plan(coupled, sizes, schedule=schedule)
    assert chosen.schedule == schedule
    numbers: dict[str, Any] = {"dtype": dtype, "device": "meta"}
    with Counts() as counts, torch.no_grad():
        hidden, weight = torch.empty(n, H, **numbers), torch.empty(v, H, **numbers)
        tokens = torch.empty(n, dtype=torch.long, device="meta")
        kept = torch.empty(n, v, dtype=torch.bool, device="meta") if kind.get("kept") else None
        head = Head(weight, softcap=30.0 if kind.get("softcap") else None, kept=kept)
        rows = torch.arange(n, device="meta")
        given = counts.now
        if schedule == TWO:
            # Which rows have a weight is data, and here there are none: every row is counted.
            made = Gradients.empty(head, hidden, frozen=frozen, written_once=True)
            lse = first_pass(made, head, hidden, tokens, rows, chosen.chunk)
            second_pass(made, head, hidden, tokens, rows, lse, made.log_pi, chosen.slice)
        elif schedule == SCALED:
            made = scaled_pass(
                head, hidden, tokens, rows.split(8192), torch.exp, torch.exp, torch.exp,
                chunk=chosen.chunk, width=chosen.slice, frozen=frozen,
            )  # fmt: skip
        else:
            pieces = chunks(rows, chosen.chunk)
            made = one_pass(
                head, hidden, tokens, pieces, torch.exp, width=chosen.slice, frozen=frozen
            )
        out = [made.hidden] if made.weight is None else [made.hidden, made.weight.to(dtype)]
    assert (made.weight is None) == frozen
    scratch = counts.peak - given - sum(x.nbytes for x in out)
    return Costs(chosen, counts.units(n, H, v), counts.moved / (n * v), scratch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("schedule", "frozen", "units"),
    [
        (ONE, False, 3),
        (ONE, True, 2),
        (TWO, False, 4),
        (TWO, True, 3),
        (SCALED, False, 3),
        (SCALED, True, 2),
    ],
)
def test_products(schedule: Schedule, frozen: bool, units: int, dtype: torch.dtype) -> None:
    """All of them as narrow as the model: one in float32 would leave the tensor cores."""
    found = counted(schedule, dtype, frozen_head=frozen)
    assert found.units == {dtype: pytest.approx(units)}
    assert found.plan.units == units


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schedule", [ONE, SCALED, TWO])
@pytest.mark.parametrize(
    "kind", [{}, {"frozen_head": True}, {"softcap": True}, {"kept": True}], ids=str
)
def test_the_plan_knows_its_scratch(
    schedule: Schedule, kind: dict[str, bool], dtype: torch.dtype
) -> None:
    found = counted(schedule, dtype, **kind)
    assert 0.85 * found.plan.scratch <= found.scratch <= found.plan.scratch <= BUDGET


@pytest.mark.parametrize("v", [128_256, 151_936])
@pytest.mark.parametrize("n", [65_536])
@pytest.mark.parametrize("schedule", [ONE, SCALED, TWO])
def test_scratch_does_not_grow_with_the_step(schedule: Schedule, n: int, v: int) -> None:
    """But for the hidden states of two passes, which need all tokens at once."""
    found = counted(schedule, torch.bfloat16, n, v)
    states = (2 + 2 * 4) * n * H
    assert found.scratch <= found.plan.scratch
    assert found.plan.scratch <= (BUDGET if schedule != TWO else max(BUDGET, states + (2 << 30)))


def test_slices_are_narrower_where_tokens_are_many() -> None:
    coupled = Coupled(Coupling.STEP, None, "pi", None)
    few, many, more = (plan(coupled, Sizes(n, 1024, H, V, 2)) for n in (8192, 65_536, 524_288))
    assert few.slice == 8192 > many.slice > more.slice == 1024
    assert plan(coupled, Sizes(8192, 1024, H, 500)).slice == 500


@pytest.mark.parametrize(
    ("schedule", "dtype", "most"),
    [
        (ONE, torch.float32, 64),
        (ONE, torch.bfloat16, 82),
        (TWO, torch.float32, 92),
        (TWO, torch.bfloat16, 90),
    ],
)
def test_bytes_that_operations_move(schedule: Schedule, dtype: torch.dtype, most: int) -> None:
    """For each logit, without kernels that fuse them."""
    assert most - 4 <= counted(schedule, dtype).moved <= most


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
