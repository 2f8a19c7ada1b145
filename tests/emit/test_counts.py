"""Counts, binomials, varying discounts, and means of probabilities of responses, computed by
hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl import driver
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.ops import BINARY
from objdsl.ir.unparse import unparse


def report(text: str, lengths: list[int], prompt: list[int], **columns: Any) -> float:
    """A report of a step, in the dtype of its columns."""
    objective = objdsl.loads(f"{text}\nmaximize mean[p,i] (sum[t] log(pi))\n")
    log_pi = torch.full((sum(lengths),), -1.0, dtype=torch.float64)
    step = objective.prepare(prompt=prompt, lengths=lengths, dtype=torch.float64, **columns)
    return float(objective(log_pi, step=step).reports["x"])


@pytest.mark.parametrize("n", [1, 5, 16, 64])
def test_choices_are_those_of_whole_numbers(n: int) -> None:
    for k in {0, 1, n // 2, n - 1, n}:
        value = report(f"param k = {k}\nreport x = mean[p] comb(count[i], k)", [1] * n, [0] * n)
        assert value == pytest.approx(math.comb(n, k), rel=1e-12)
    assert report(f"report x = mean[p] comb(count[i], {n + 1})", [1] * n, [0] * n) == 0


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [(5, -1, 0.0), (-1, 0, math.nan), (math.inf, 2, math.nan), (2.5, 1, 2.5), (0.5, 0.5, 1.0)],
)
def test_choices_of_other_numbers(n: float, k: float, expected: float) -> None:
    text = "given n[p]\ngiven k[p]\nreport x = mean[p] comb(n + 0 * k, k)"
    assert BINARY["comb"].value(n, k) == pytest.approx(expected, nan_ok=True)
    if math.isfinite(n):  # no column is infinite
        value = report(text, [1], [0], n=[n], k=[k])
        assert value == pytest.approx(expected, nan_ok=True, rel=1e-12)


def test_pass_at_k_is_that_of_the_subsets() -> None:
    correct = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    text = (
        "given correct[p,i] in {0, 1}\nwrong = count[i] (correct == 0)\n"
        "report x = mean[p] (1 - comb(wrong, 3) / comb(count[i], 3))"
    )
    value = report(text, [1] * 6, [0] * 6, correct=correct)
    assert value == pytest.approx(1 - math.comb(4, 3) / math.comb(6, 3))


def test_a_discount_of_turns_counts_turns() -> None:
    turn = torch.tensor([1, 1, 1, 2, 2, 3, 1, 2], dtype=torch.float64)
    progress = torch.tensor([0, 0, 1, 0, 2, 4, 8, 16], dtype=torch.float64)
    text = (
        "given turn[p,i,t]\ngiven progress[p,i,t]\nparam g = 0.5\n"
        "report x = sum[p,i,t | t == 1] togo(progress, g if next(turn) != turn else 1)"
    )
    value = report(text, [6, 2], [0, 0], turn=turn, progress=progress)
    assert value == pytest.approx(1 + 0.5 * 2 + 0.25 * 4 + 8 + 0.5 * 16)


GEPO = """\
P = prod[t] pi
q = prod[t] mu
report x = mean[p,i] min({}, 1e3)
maximize mean[p,i] min(P / ((sum[i] (q^2)) / sum[i] q), 1e3)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_to_the_mean_of_a_group_are_those_of_logarithms(dtype: torch.dtype) -> None:
    """Responses of a thousand tokens, whose probabilities no float can represent."""
    generator = torch.Generator().manual_seed(0)
    log_mu = -torch.rand(4, 1000, dtype=torch.float64, generator=generator)
    log_mu[:, -1] -= log_mu.sum(-1) - log_mu.sum(-1).min()  # as likely as the least likely
    log_pi = (log_mu + 2e-3 * torch.randn(4, 1000, dtype=torch.float64, generator=generator)).clamp(
        max=0
    )
    mask = torch.ones(4, 1000, dtype=torch.bool)
    objective = objdsl.loads(GEPO.format("P / ((sum[i] (q^2)) / sum[i] q)"))
    step = objective.prepare(prompt=[0, 0, 1, 1], mask=mask, log_mu=log_mu.to(dtype), dtype=dtype)
    trained = log_pi.to(dtype).requires_grad_()
    out = objective(trained, step=step)
    out.loss.backward()
    assert trained.grad is not None

    def by_hand(log_pi: Tensor, log_mu: Tensor) -> Tensor:
        p, q = log_pi.double().sum(-1), log_mu.double().sum(-1)
        groups = ((p[k : k + 2], q[k : k + 2]) for k in (0, 2))
        ratios = [
            (p - torch.logsumexp(2 * q, 0) + torch.logsumexp(q, 0)).exp().clamp(max=1e3)
            for p, q in groups
        ]
        return torch.cat(ratios).mean()

    leaf = log_pi.clone().requires_grad_()
    expected = by_hand(leaf, log_mu)
    (gradient,) = torch.autograd.grad(expected, leaf)
    near = 1e-3 if dtype == torch.float32 else 1e-12
    assert 0.01 < expected.item() < 100
    assert float(out.reports["x"]) == pytest.approx(expected.item(), rel=near)
    torch.testing.assert_close(-trained.grad.double(), gradient, rtol=near, atol=near)


@pytest.mark.parametrize("packed", [False, True])
def test_tokens_are_told_apart_by_their_ids(packed: bool) -> None:
    text = (
        "param stop = 7\nreport x = mean[p,i] (count[t] (token != 5 and token != stop) / count[t])"
    )
    objective = objdsl.loads(f"{text}\nmaximize mean[p,i] sum[t] ((token == 5) * log(pi))\n")
    ids, mask = torch.tensor([[5, 7, 9], [9, 5, 5]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    log_pi = torch.full((2, 3), -1.0, dtype=torch.float64)
    shape: dict[str, Any] = {"lengths": [3, 2]} if packed else {"mask": mask}
    ids, log_pi = (ids[mask], log_pi[mask]) if packed else (ids, log_pi)
    step = objective.prepare(prompt=[0, 0], token_ids=ids, dtype=torch.float64, **shape)
    out = objective(log_pi, step=step)
    assert float(out.reports["x"]) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert float(out.value) == pytest.approx(-(1 + 1) / 2)


BY_TURN = {
    "count[t by turn]": [3, 3, 1, 3, 1, 2, 2],
    "count[t by turn | t > 1]": [2, 2, 1, 2, 0, 2, 2],
    "count[t by turn] (t > 1)": [2, 2, 1, 2, 0, 2, 2],
    "count[i,t by turn]": [4, 4, 3, 4, 4, 3, 3],
}
"""The counts of a response with the turns 1, 1, 2, 1 and of one with 1, 2, 2, by token."""


@pytest.mark.parametrize("expression", BY_TURN)
def test_tokens_are_counted_by_a_key_at_every_stage(expression: str) -> None:
    text = f"objective x\ngiven turn[p,i,t]\nn = {expression}\nmaximize sum[p,i,t] (n * log(pi))\n"
    objective, expected = objdsl.loads(text), [float(n) for n in BY_TURN[expression]]
    rows = [[1.0, 1.0, 2.0, 1.0], [1.0, 2.0, 2.0]]
    batch = Batch([0, 0], [4, 3], {"turn": rows, "log_pi": [[-1.0] * 4, [-1.0] * 3]})
    (n,) = (binding.value for binding in objective.formula.bindings if binding.name == "n")
    assert [x for row in evaluate([n], batch)[0] for x in row] == expected

    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    padded = torch.tensor([rows[0], [*rows[1], math.nan]])
    packed = padded[mask]
    for turn, layout in ((padded, {"mask": mask}), (packed, {"lengths": [4, 3]})):
        log_pi = torch.full(turn.shape, -1.0, requires_grad=True)
        objective(log_pi=log_pi, turn=turn, prompt=[0, 0], **layout).loss.backward()
        assert log_pi.grad is not None
        weights = -log_pi.grad
        assert (weights[mask] if turn is padded else weights).tolist() == expected

    assert objdsl.loads(unparse(objective.formula)).formula == objective.formula
    assert r"\mathrm{turn}" in driver.mathematics(objective.formula, latex=True)
