"""Triton's kernels compute the same as tensor operations.

On a machine with a GPU they run there; on others in Triton's interpreter, with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import objdsl
from objdsl.analysis.schedule.coupling import Coupling
from objdsl.analysis.schedule.plan import legal
from objdsl.fused import log_probs
from objdsl.fused.head import Head
from objdsl.fused.kernels import TORCH, choose

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


from helpers.fused_steps import NAMES, PARAMS, plain, prepared, scene  # noqa: E402
from helpers.gallery_steps import rows_of  # noqa: E402
from objdsl.fused import triton as ours  # noqa: E402

pytestmark = pytest.mark.usefixtures("chunks_of_any_size")
KERNELS = ours.TritonKernels()
M = 7


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    """Small blocks, so that a small vocabulary makes several, as a large one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "BLOCK", 16)
        yield


def a_head(vocabulary: int, dtype: torch.dtype, *, seed: int, **options: Any) -> Head:
    """Options: `bias`, `kept`, `softcap`, `temperature`."""
    like = {"dtype": dtype, "device": DEVICE}
    make = torch.Generator(DEVICE).manual_seed(seed)
    weight = torch.randn(vocabulary, 4, generator=make, **like)
    bias = torch.randn(vocabulary, generator=make, **like) if options.pop("bias", False) else None
    kept = None
    if options.pop("kept", False):
        kept = torch.rand(M, vocabulary, generator=make, device=DEVICE) < 0.5
    return Head(weight, bias, kept=kept, **options)


def a_chunk(head: Head, rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Products `[C, V]`, the tokens they belong to, and the vocabulary entries that were kept."""
    vocabulary = len(head.weight)
    make = torch.Generator(DEVICE).manual_seed(seed)
    hidden = torch.randn(rows, 4, generator=make, dtype=head.acc_dtype, device=DEVICE)
    places = torch.randperm(M, generator=make, device=DEVICE)[:rows]
    target = torch.randint(vocabulary, (rows,), generator=make, device=DEVICE)
    if head.kept is not None:
        head.kept[places, target] = True
    return head.raw_logits(hidden), places, target


def same(ours_: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for x, y in zip(ours_, theirs, strict=True):
        torch.testing.assert_close(x, y)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "bias": st.just(True),
        "kept": st.just(True),
        "softcap": st.sampled_from([1.0, 30.0]),
        "temperature": st.sampled_from([0.5, 1.3]),
    },
)
WIDE = st.sampled_from([torch.float32, torch.float64])


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 70), WIDE, OPTIONS, st.integers(0, 99))
@example(1, 1, torch.float64, {}, 0)
@example(1, 64, torch.float32, {"bias": True, "kept": True, "softcap": 5.0, "temperature": 0.7}, 1)
def test_scores_and_gradients(
    rows: int, vocabulary: int, wide: torch.dtype, options: dict[str, Any], seed: int
) -> None:
    head = a_head(vocabulary, wide, seed=seed, **options)
    z, places, target = a_chunk(head, rows, seed)
    same(*(k.score(head, z.clone(), places, target, entropy=True) for k in (KERNELS, TORCH)))
    weights = torch.randn(M, dtype=wide, device=DEVICE)
    outputs, formed = [], []
    for kernels in (KERNELS, TORCH):
        log_pi = torch.zeros(M, dtype=wide, device=DEVICE)
        arguments = (head, z.clone(), places, target, log_pi, lambda _: weights, wide)
        formed.append(kernels.gradient(*arguments))
        outputs.append(log_pi)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*formed)


@pytest.mark.parametrize("options", [{}, {"bias": True, "kept": True, "softcap": 5.0}])
def test_slices_of_the_vocabulary(options: dict[str, Any]) -> None:
    head = a_head(50, torch.float64, seed=3, **dict(options))
    z, rows, target = a_chunk(head, 3, 3)
    lse = TORCH.score(head, z.clone(), rows, target).lse
    w = torch.randn(3, dtype=z.dtype, device=DEVICE)
    whole = TORCH.slice_gradient(head, z.clone(), rows, slice(0, 50), target, lse, w, z.dtype)
    for entries in (slice(0, 32), slice(32, 64)):
        part = z[:, entries].contiguous()
        d = KERNELS.slice_gradient(head, part, rows, entries, target, lse, w, z.dtype)
        torch.testing.assert_close(d, whole[:, entries])


def test_a_narrow_gradient_lies_where_the_products_were() -> None:
    head = a_head(50, torch.float32, seed=4)
    z, rows, target = a_chunk(head, 3, 4)
    log_pi, w = z.new_zeros(M), torch.randn(M, device=DEVICE)
    wide = TORCH.gradient(head, z.clone(), rows, target, log_pi, lambda _: w, z.dtype)
    d = KERNELS.gradient(head, z, rows, target, log_pi, lambda _: w, torch.bfloat16)
    assert d.dtype == torch.bfloat16
    assert d.untyped_storage().data_ptr() == z.untyped_storage().data_ptr()
    torch.testing.assert_close(d, wide.bfloat16(), rtol=1e-2, atol=1e-6)


def test_logits_that_are_far_apart() -> None:
    """Logits whose exponentials overflow, and a first block of which no entry was kept."""
    head = a_head(40, torch.float32, seed=6, kept=True)
    assert head.kept is not None
    head.kept[:, :20] = False
    head.kept[:, 39] = True
    z, rows, target = a_chunk(head, 2, 6)
    z[:, 20:] = torch.linspace(-3e4, 3e4, 20, device=DEVICE)
    target[:] = 39
    scores = KERNELS.score(head, z.clone(), rows, target, entropy=True)
    assert all(x.isfinite().all() for x in scores)
    same(scores, TORCH.score(head, z.clone(), rows, target, entropy=True))


def test_no_rows_are_nothing_to_do() -> None:
    head = a_head(8, torch.float32, seed=0)
    none = torch.empty(0, dtype=torch.long, device=DEVICE)
    log_pi, lse, _ = KERNELS.score(head, torch.empty(0, 8, device=DEVICE), none, none)
    assert log_pi.shape == lse.shape == (0,)


@pytest.mark.parametrize("entropy", [False, True])
def test_log_probs(entropy: bool) -> None:
    torch.manual_seed(7)
    hidden, weight = (torch.randn(n, 4, dtype=torch.float64, device=DEVICE) for n in (5, 40))
    tokens = torch.randint(40, (5,), device=DEVICE)
    outputs = [
        log_probs(hidden, weight, tokens, entropy=entropy, chunk=2, kernels=name)
        for name in ("triton", "torch")
    ]
    torch.testing.assert_close(*outputs)


# --- objectives ----------------------------------------------------------------------------------


def small(objective: objdsl.Objective, packed: bool) -> dict[str, Any]:
    """Four responses of the step of `scene`, of six tokens in all."""
    data = scene(objective, packed=False)
    mask = torch.arange(6) < torch.tensor([2, 1, 1, 2])[:, None]
    pick: Callable[[Tensor], Tensor] = (lambda x: x[:4][mask]) if packed else (lambda x: x[:4])
    columns = rows_of(data["columns"], slice(4))
    columns = {name: x[mask] if packed and x.dim() > 1 else x for name, x in columns.items()}
    rows = {"lengths": mask.sum(-1)} if packed else {"mask": mask}
    given = {
        "hidden": pick(data["hidden"]), "tokens": pick(data["tokens"]), "columns": columns,
        "weight": data["weight"], "bias": data["bias"], "mask": mask,
        "rows": {**rows, "prompt": torch.arange(4) // 2},
    }  # fmt: skip
    return moved(given)  # type: ignore[no-any-return]


def moved(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: moved(y) for name, y in x.items()}
    return x.to(DEVICE) if isinstance(x, Tensor) else x


def local(name: str) -> bool:
    return objdsl.load(name).fused_loss.coupled.worst <= Coupling.TOKEN


WITHOUT_KERNEL = {"top_k_distillation"}
"""What orders the vocabulary of a row, which no kernel does."""


def test_what_has_no_kernel() -> None:
    for name in WITHOUT_KERNEL:
        assert local(name) and objdsl.load(name).fused_loss.kernel is None


@pytest.mark.parametrize("name", [x for x in NAMES if x not in WITHOUT_KERNEL and local(x)])
def test_the_objective_in_the_kernel(name: str) -> None:
    """The objective's own kernel, in float64: values, gradients, reports."""
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    assert objective.fused_loss.kernel is not None
    for packed in (True, False):
        data = small(objective, packed)
        step, others = prepared(objective, data)
        out, expected = plain(objective, data, step, others, 1.3, 5.0)
        leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
        again = {k: x.detach().clone().requires_grad_() for k, x in others.items()}
        actual = objective.fused(
            leaves[0], leaves[1], data["tokens"], step, bias=leaves[2], temperature=1.3,
            softcap=5.0, kernels="triton", schedule="one pass", **again,
        )  # fmt: skip
        actual.loss.backward()
        torch.testing.assert_close(actual.value, out.value, rtol=1e-11, atol=1e-12)
        assert actual.reports.keys() == out.reports.keys()
        for key in out.reports:
            torch.testing.assert_close(
                actual.reports[key], out.reports[key], rtol=1e-11, atol=1e-12
            )
        for x, y in zip([*leaves, *again.values()], expected, strict=True):
            torch.testing.assert_close(x.grad, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_vocabulary_entries(alone: bool, dtype: torch.dtype) -> None:
    """An entropy bonus: p_v (log p_v + H), with or without a sampled token beside it."""
    goal = "0.01 * H" if alone else "reward * log(pi) + 0.01 * H"
    objective = objdsl.loads(
        "objective bonus\nH = - sum[v] (pi[v] * log(pi[v]))\nreport entropy = mean[p,i,t] H\n"
        f"maximize mean[p,i,t] ({goal})\n"
    )
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 4, device=DEVICE), torch.randn(40, 4, device=DEVICE)
    tokens = torch.tensor([3, 7, 39], device=DEVICE)
    kept = torch.rand(3, 40, device=DEVICE) < 0.6
    kept[range(3), tokens] = True
    columns = {
        "prompt": torch.tensor([0, 0]), "lengths": torch.tensor([2, 1]),
        "reward": torch.tensor([1.0, 0.5], dtype=torch.float64),
    }  # fmt: skip
    step = objective.prepare(**moved(columns))
    outputs = []
    schedules = {"triton": "one pass", "torch": "one pass, whole responses"}
    for kernels, schedule in schedules.items():
        leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
        out = objective.fused(
            *leaves, tokens, step, softcap=30.0, kept=kept, kernels=kernels, schedule=schedule
        )
        out.loss.backward()
        numbers = out.value.float(), out.reports["entropy"].float()
        outputs.append((*numbers, *(x.grad for x in leaves)))
    for x, y in zip(*outputs, strict=True):
        loose = {"rtol": 2e-2, "atol": 4e-3} if x.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(x, y, **loose)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("dapo", "one pass, whole responses"),
        ("dapo", "two passes"),
        ("gspo", "one pass, whole responses"),
        ("clip_cov", "two passes"),
    ],
)
def test_an_objective_between_two_kernels(name: str, schedule: Any) -> None:
    """Coupled responses, rows without a weight, and slices: PyTorch computes the weights."""
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    assert schedule in legal(objective.fused_loss.coupled)
    data = small(objective, packed=True)
    data["columns"]["reward"][:2] = 1.0
    step, others = prepared(objective, data)
    out, expected = plain(objective, data, step, others, 1.0, None)
    leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
    actual = objective.fused(
        leaves[0], leaves[1], data["tokens"], step, bias=leaves[2], kernels="triton",
        schedule=schedule,
    )  # fmt: skip
    actual.loss.backward()
    torch.testing.assert_close(actual.value, out.value, rtol=1e-11, atol=1e-12)
    for x, y in zip(leaves, expected, strict=True):
        torch.testing.assert_close(x.grad, y, rtol=1e-10, atol=1e-12)


def test_narrow_models() -> None:
    """bfloat16 inputs, as in models: the same up to the rounding of the gradient that products
    read."""
    objective = objdsl.load("grpo")
    data = small(objective, packed=True)
    columns = {k: x.float() for k, x in data["columns"].items() if k != "log_pi"}
    step = objective.prepare(**columns, **data["rows"])
    outputs = []
    for kernels in ("triton", "torch"):
        hidden, weight = (data[k].bfloat16().requires_grad_() for k in ("hidden", "weight"))
        out = objective.fused(hidden, weight, data["tokens"], step, kernels=kernels)  # type: ignore[arg-type]
        out.loss.backward()
        assert out.value.dtype == torch.float32
        outputs.append((out.value, out.log_pi, *out.reports.values(), hidden.grad, weight.grad))
    for x, y in zip(*outputs, strict=True):
        loose = {"rtol": 2e-2, "atol": 4e-3} if x.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(x, y, **loose)


def test_where_triton_cannot_run_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="need a GPU"):
        choose("triton", torch.device("cpu"))
    assert choose(None, torch.device("cpu")) == "torch"
    assert choose(None, torch.device("cuda")) == "triton"
