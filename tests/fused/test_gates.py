"""The cost of a schedule, counted and not timed, at the sizes of real models.

Tensors are on the device `meta`: they have shapes and dtypes but no data, and multiply as on a GPU.
Code that would wait for a GPU to read a number fails there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import objdsl
from objdsl.analysis.schedule.coupling import Coupled, Coupling, Separated
from objdsl.analysis.schedule.plan import BUDGET, Plan, Schedule, Sizes, plan
from objdsl.fused import log_probs
from objdsl.fused.counts import Counts
from objdsl.fused.head import Head, Precision, accumulate, chunks, split
from objdsl.fused.loss import FusedLoss
from objdsl.fused.passes import Gradients, first_pass, one_pass, scaled_pass, second_pass
from objdsl.ir import build as ir
from objdsl.ir.indices import TOKEN, VOCAB

N, H, V = 8192, 4096, 128_256
ONE: Schedule = "one pass"
TWO: Schedule = "two passes"
SCALED: Schedule = "one pass, scaled afterwards"
PRECISIONS: tuple[Precision, ...] = ("inputs", "bf16x2", "bf16x3")


@dataclass(frozen=True)
class Costs:
    """`scratch` is the most memory that was in use besides the inputs and the resulting
    gradients."""

    plan: Plan
    units: dict[torch.dtype, float]
    moved: float
    scratch: int


def counted(schedule: Schedule, dtype: torch.dtype, n: int = N, v: int = V, **kind: Any) -> Costs:
    coupled = Coupled(Coupling.STEP if schedule == TWO else Coupling.TOKEN, None, "pi", None)
    if schedule == SCALED:
        coupled = Coupled(Coupling.RESPONSE, None, "pi", None, Separated(ir.ONE, ir.ONE))
    frozen, parts = kind.get("frozen_head", False), kind.get("parts", 1)
    sizes = Sizes(n, 8192, H, v, weight_bytes=dtype.itemsize, **kind)
    chosen = plan(coupled, sizes, schedule=schedule)
    assert chosen.schedule == schedule
    numbers: dict[str, Any] = {"dtype": dtype, "device": "meta"}
    with Counts() as counts, torch.no_grad():
        hidden, weight = torch.empty(n, H, **numbers), torch.empty(v, H, **numbers)
        if parts > 1:
            weight = weight.float()
        tokens = torch.empty(n, dtype=torch.long, device="meta")
        kept = torch.empty(n, v, dtype=torch.bool, device="meta") if kind.get("kept") else None
        given = counts.now
        main, *rest = split(weight, PRECISIONS[parts - 1], hidden)
        head = Head(main, None, 1.0, 30.0 if kind.get("softcap") else None, kept, tuple(rest))
        rows = torch.arange(n, device="meta")
        if schedule == TWO:
            # Which rows have a weight is data, and here there are none: every row is counted.
            gradients = Gradients.empty(head, hidden, frozen=frozen, written_once=True)
            lse = first_pass(gradients, head, hidden, tokens, rows, chosen.chunk)
            second_pass(gradients, head, hidden, tokens, rows, lse, gradients.log_pi, chosen.slice)
        elif schedule == SCALED:
            gradients = scaled_pass(
                head, hidden, tokens, rows.split(8192), torch.exp, torch.exp, torch.exp,
                chunk=chosen.chunk, width=chosen.slice, frozen=frozen,
            )  # fmt: skip
        else:
            pieces = chunks(rows, chosen.chunk)
            gradients = one_pass(
                head, hidden, tokens, pieces, torch.exp, width=chosen.slice, frozen=frozen
            )
        out = [gradients.hidden]
        if gradients.weight is not None:
            out.append(gradients.weight.to(weight.dtype))
    assert (gradients.weight is None) == frozen
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
    """All have the model's low precision: one in float32 would not use the tensor cores."""
    counts = counted(schedule, dtype, frozen_head=frozen)
    assert counts.units == {dtype: pytest.approx(units)}
    assert counts.plan.units == units


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schedule", [ONE, SCALED, TWO])
@pytest.mark.parametrize(
    "kind", [{}, {"frozen_head": True}, {"softcap": True}, {"kept": True}], ids=str
)
def test_the_plan_knows_its_scratch(
    schedule: Schedule, kind: dict[str, bool], dtype: torch.dtype
) -> None:
    counts = counted(schedule, dtype, **kind)
    assert 0.85 * counts.plan.scratch <= counts.scratch <= counts.plan.scratch <= BUDGET


@pytest.mark.parametrize("v", [128_256, 151_936])
@pytest.mark.parametrize("n", [65_536])
@pytest.mark.parametrize("schedule", [ONE, SCALED, TWO])
def test_scratch_does_not_grow_with_the_step(schedule: Schedule, n: int, v: int) -> None:
    """Except for the hidden states of two passes, which need all tokens at once."""
    counts = counted(schedule, torch.bfloat16, n, v)
    states = (2 + 2 * 4) * n * H
    assert counts.scratch <= counts.plan.scratch
    assert counts.plan.scratch <= (BUDGET if schedule != TWO else max(BUDGET, states + (2 << 30)))


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
    """Per logit, without kernels that fuse operations."""
    assert most - 4 <= counted(schedule, dtype).moved <= most


@pytest.mark.gpu
def test_products_on_a_gpu_are_summed_up_wide() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(64, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    total = torch.randn(64, 64, device="cuda")
    exact = total.double() + a.double() @ b.double()
    accumulate(total, a, b)
    torch.testing.assert_close(total, exact.float(), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Peaked:
    """Peaked policies, with logits up to 22, and their exact values in float64."""

    hidden: torch.Tensor
    weight: torch.Tensor
    tokens: torch.Tensor
    exact: torch.Tensor


def peaked(dtype: torch.dtype) -> Peaked:
    """bfloat16 hidden states with a head of some dtype."""
    torch.manual_seed(0)
    hidden = torch.randn(1024, 256).bfloat16()
    weight = (torch.randn(16_384, 256) / 4).to(dtype)
    log_p = torch.log_softmax(hidden.double() @ weight.double().T, -1)
    tokens = torch.multinomial(log_p.exp(), 1)
    return Peaked(hidden, weight, tokens.squeeze(-1), log_p.gather(-1, tokens).squeeze(-1))


def flips(actual: torch.Tensor, exact: torch.Tensor) -> int:
    """How many clip decisions differ, if the old policy is close."""
    old = exact + 0.2 * torch.randn(len(exact), dtype=torch.float64)
    sides = [((x - old).exp() < 0.8, (x - old).exp() > 1.2) for x in (actual, exact)]
    return sum(int((a != b).sum()) for a, b in zip(*sides, strict=True))


def test_narrow_inputs_lose_nothing() -> None:
    """Peaked policies in bfloat16 against float64: no clip decision differs."""
    given = peaked(torch.bfloat16)
    actual, _ = log_probs(given.hidden, given.weight, given.tokens)
    assert actual.dtype == torch.float32
    assert (actual - given.exact).abs().max() <= 1e-5
    assert flips(actual, given.exact) == 0


def test_a_head_of_float32_in_bfloat16_products() -> None:
    """Rounding the head costs 0.025 of a log-probability; with a second part of it 3e-5 remain,
    with a third no more than in float32."""
    given = peaked(torch.float32)
    rounded, _ = log_probs(given.hidden, given.weight.bfloat16(), given.tokens)
    errors = {"bfloat16": float((rounded - given.exact).abs().max())}
    objective = objdsl.loads("objective o\nmaximize mean[p,i,t] (reward * log(pi))")
    step = objective.prepare(
        reward=torch.randn(8), prompt=list(range(8)), mask=torch.ones(8, 128, dtype=torch.bool)
    )
    gradients = {}
    for precision in PRECISIONS:
        hidden, weight = given.hidden.view(8, 128, -1).clone(), given.weight.clone()
        with Counts() as counts:
            out = objective.fused(
                hidden.requires_grad_(), weight.requires_grad_(), given.tokens.view(8, 128), step,
                precision=precision,
            )  # fmt: skip
            out.loss.backward()
        assert out.log_pi is not None
        alone, _ = log_probs(given.hidden, given.weight, given.tokens, precision=precision)
        torch.testing.assert_close(out.log_pi.flatten(), alone, rtol=0, atol=2e-5)
        assert flips(out.log_pi.flatten(), given.exact) == 0
        errors[precision] = float((out.log_pi.flatten() - given.exact).abs().max())
        gradients[precision] = weight.grad
        assert gradients[precision].dtype == torch.float32
        products = sum(counts.units(1024, 256, 16_384).values())
        assert products == pytest.approx({"inputs": 3, "bf16x2": 4, "bf16x3": 5}[precision])
    assert errors["bfloat16"] > 1e-2
    assert errors["bf16x2"] <= 5e-5
    assert max(errors["bf16x3"], errors["inputs"]) <= 2e-5
    exact = gradients["inputs"]
    for other in (gradients["bf16x2"], gradients["bf16x3"]):
        # The gradient by the logits is rounded to bfloat16, as it is under a head of that type.
        assert (other - exact).norm() <= 3e-3 * exact.norm()


def test_a_precision_that_cannot_be() -> None:
    objective = objdsl.loads("objective o\nmaximize mean[p,i,t] (reward * log(pi))")
    step = objective.prepare(reward=torch.ones(2), prompt=[0, 0], mask=torch.ones(2, 3).bool())
    states, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    with pytest.raises(ValueError, match="bf16x2 is for a float32 head under bfloat16 states"):
        objective.fused(states, weight, torch.zeros(2, 3).long(), step, precision="bf16x2")


@pytest.mark.parametrize("schedule", [ONE, SCALED, TWO])
def test_a_split_head(schedule: Schedule) -> None:
    """Two parts: one more product wherever logits are computed, all of them in bfloat16."""
    counts = counted(schedule, torch.bfloat16, parts=2)
    assert counts.units == {torch.bfloat16: pytest.approx(counts.plan.units)}
    assert counts.plan.units == (6 if schedule == TWO else 4)
    assert 0.85 * counts.plan.scratch <= counts.scratch <= counts.plan.scratch


@pytest.mark.parametrize("budget", [1 << 20, 4 << 20, 32 << 20])
@pytest.mark.parametrize("name", ["dapo", "gspo", "gmpo", "gspo_token", "clip_cov", "kl_exact"])
def test_what_an_objective_takes_is_what_its_plan_says(
    name: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All memory of forward and backward, by what was in use at once on a CPU."""
    monkeypatch.setattr(FusedLoss, "fewest_tokens", 1)
    rows, length, hidden, vocabulary = 8, 64, 32, 4096
    torch.manual_seed(0)
    objective = objdsl.load(name)
    states, weight = torch.randn(rows, length, hidden), torch.randn(vocabulary, hidden) / 6
    tokens = torch.randint(vocabulary, (rows, length))
    log_p = torch.log_softmax(states @ weight.T, -1)
    near = log_p.gather(-1, tokens[..., None]).squeeze(-1) + 0.1 * torch.randn(rows, length)
    columns = {
        column: {TOKEN: near, VOCAB: log_p}.get(kind.indices, (torch.arange(rows) % 3 == 0).float())
        for column, kind in objective.columns.items()
        if not kind.trained
    }
    step = objective.prepare(
        **columns, mask=torch.ones(rows, length, dtype=torch.bool), prompt=torch.arange(rows) // 4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    options: dict[str, Any] = {"budget": budget, "schedule": SCALED if name == "gmpo" else None}
    chosen = plan(
        objective.fused_loss.coupled,
        Sizes(rows * length, length, hidden, vocabulary),
        fewest_tokens=1,
        **options,
    )
    objective.fused(states, weight, tokens, step)  # emits and compiles what it needs
    with Counts() as counts:
        leaves = [x.detach().requires_grad_() for x in (states, weight)]
        # Rows of the reference's distribution are views.
        held = counts.now + sum(x.nbytes for x in step.tokens.values() if x.dim() == 3)
        objective.fused(leaves[0], leaves[1], tokens, step, **options).loss.backward()
    scratch = counts.peak - held - sum(x.nbytes for x in leaves)
    assert 0 < scratch <= chosen.scratch
