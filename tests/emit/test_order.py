"""`median`, `quantile`, `rank`, `trim` and `top`: ties, ragged groups, masks, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import objdsl
from helpers.autograd_evaluator import derivative
from objdsl.errors import ObjectiveError
from objdsl.ir.evaluate import Batch, evaluate

# Two groups, of four and of three; lengths 1 to 4; the first group ties at 1.
PROMPT = [7, 3, 7, 7, 3, 7, 3]
REWARD = [1.0, 0.5, 1.0, 2.0, -1.0, 0.0, 0.5]
LENGTH = [1, 3, 2, 4, 2, 1, 3]


def _data() -> tuple[Batch, dict[str, Any], torch.Tensor]:
    rng = np.random.default_rng(4)
    mask = np.arange(4) < np.array(LENGTH)[:, None]
    columns: dict[str, Any] = {
        "reward": np.array(REWARD),
        "log_pi": rng.uniform(-3, -0.1, (7, 4)),
        "log_old": rng.uniform(-3, -0.1, (7, 4)),
        "x": rng.integers(0, 3, (7, 4)).astype(float),
    }
    ragged = {
        name: [x[r, : LENGTH[r]] if x.ndim > 1 else x[r] for r in range(7)]
        for name, x in columns.items()
    }
    padded = {
        name: torch.from_numpy(np.where(mask, x, np.nan) if x.ndim > 1 else x)
        for name, x in columns.items()
    }
    return Batch(PROMPT, LENGTH, ragged), padded, torch.from_numpy(mask)


def _of(expression: str) -> list[float]:
    formula = objdsl.loads(
        f"objective x\ngiven x[p,i,t]\nA = {expression}\nmaximize mean[p,i,t] (A * log(pi))\n"
    ).formula
    batch, _, _ = _data()
    (values,) = evaluate([formula.bindings[0].value], batch)
    return [float(value) for value in values]


def test_what_statistics_are() -> None:
    """Computed by numpy; prompts stand in the order of their ids, 3 and 7."""
    groups = [[0.5, -1.0, 0.5], [1.0, 1.0, 2.0, 0.0]]
    assert _of("median[i] reward") == [np.median(g) for g in groups]
    for at in (0, 0.25, 0.4, 0.9, 1):
        wanted = [np.quantile(g, at) for g in groups]
        assert _of(f"quantile[i](reward, {at})") == pytest.approx(wanted, abs=1e-12)
    assert _of("quantile[i | reward > 5](reward, 0.3)") == [0, 0]
    assert _of("median[i | reward > 0] reward") == [0.5, 1.0]
    assert _of("rank[i] reward") == [2, 2, 2, 4, 1, 1, 2]
    assert _of("rank[i | reward > 0] reward") == [1, 1, 1, 3, 1, 1, 1]
    assert _of("rank[p,i] reward") == [5, 3, 5, 7, 1, 2, 3]
    assert _of("median[i,t] reward") == [0.5, 1.5]


def test_what_trim_keeps() -> None:
    """The running means of 0, 1, 1, 2 are 0, 1/2, 2/3, 1; the two that tie are kept or dropped
    together."""
    kept = [
        _of(f"1 if trim[i](reward, {limit}) else 0") for limit in (-0.1, 0, 0.5, 0.667, 0.99, 1)
    ]
    assert [[row[k] for k in (5, 0, 2, 3)] for row in kept] == [
        [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1],
    ]  # fmt: skip
    assert _of("1 if trim[i | reward != 1](reward, 1) else 0")[:4] == [0, 1, 0, 1]


GOALS = [
    "mean[p,i] ((reward - median[i] reward) * sum[t] log(pi))",
    "mean[p,i] ((rank[i] reward) / (sum[i] 1) * sum[t] log(pi))",
    "mean[p] quantile[i](mean[t] (pi / old), 0.3) + median[p,i,t] log(pi)",
    "mean[p,i] median[t] (x * log(pi))",
    "mean[p] median[i] (reward * max[t] log(pi))",
    "mean[p,i,t] (log(pi) if trim[p,i,t](log(pi / old)^2, 0.3) else 0)",
    "mean[p,i,t] (log(pi) if trim[i,t | x > 0](log(pi / old)^2, 0.3) else 0)",
    "mean[p,i,t] (log(pi) * (rank[t] x) + log(pi) * (rank[p,i,t | x < 2] pi))",
    "mean[p,i,t | top[p,i,t | x > 0](pi / old, 0.5)] log(pi)",
    "mean[p] quantile[i,t](min(pi / old, 1.2), 0.9)",
    "mean[p,i,t | topk[i,t](pi / old, 3)] log(pi)",
]


@pytest.mark.parametrize("goal", GOALS)
def test_every_way_is_the_interpreter_s(goal: str) -> None:
    """Value and gradient: padded, packed, row by row after `couple`, and by autograd."""
    given = objdsl.loads(f"objective x\ngiven x[p,i,t]\nmaximize {goal}\n")
    batch, columns, mask = _data()
    wanted, gradient = derivative(given.formula.goal, batch, {})
    (value,) = evaluate([given.formula.goal], batch)
    assert value == pytest.approx(wanted, abs=1e-12)
    expected = torch.zeros(7, 4, dtype=torch.float64)
    for (row, t), g in gradient["log_pi"].items():
        expected[row, t] = g
    read = {name: columns[name] for name in given.columns if name != "log_pi"}
    step = given.prepare(prompt=PROMPT, mask=mask, **read)
    log_pi = columns["log_pi"]
    whole = given.couple(step, log_pi) if given.needs_couple else step
    J, weights, _ = given.weights(log_pi, whole)
    assert float(J) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(weights["log_pi"], expected, atol=1e-12, rtol=0)
    parts = [given.weights(log_pi[k : k + 1], whole[k : k + 1]) for k in range(7)]
    assert sum(float(part[0]) for part in parts) == pytest.approx(wanted, abs=1e-12)
    for k, part in enumerate(parts):
        torch.testing.assert_close(part[1]["log_pi"][0], expected[k], atol=1e-12, rtol=0)
    lengths = torch.tensor(LENGTH)
    packed = {name: x[mask] if x.dim() > 1 else x for name, x in read.items()}
    flat = given.prepare(prompt=PROMPT, lengths=lengths, **packed)
    flat = given.couple(flat, log_pi[mask]) if given.needs_couple else flat
    J, weights, _ = given.weights(log_pi[mask], flat)
    assert float(J) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(weights["log_pi"], expected[mask], atol=1e-12, rtol=0)


# Eight vocabulary entries, of which two tie for the second place, and two for the last.
PROBABILITIES = [0.3, 0.2, 0.2, 0.1, 0.08, 0.06, 0.03, 0.03]
MASKS_OF_ENTRIES = {
    "topk[v](ref[v], 0)": [],
    "topk[v](ref[v], 1)": [0],
    "topk[v](ref[v], 2)": [0],
    "topk[v](ref[v], 3)": [0, 1, 2],
    "topk[v](ref[v], 7)": [0, 1, 2, 3, 4, 5],
    "topk[v](ref[v], 20)": [0, 1, 2, 3, 4, 5, 6, 7],
    "topk[v | ref[v] < 0.25](ref[v], 2)": [1, 2],
    "nucleus[v](ref[v], 0)": [],
    "nucleus[v](ref[v], 0.3)": [0],
    "nucleus[v](ref[v], 0.31)": [0, 1, 2],
    "nucleus[v](ref[v], 0.7)": [0, 1, 2],
    "nucleus[v](ref[v], 0.95)": [0, 1, 2, 3, 4, 5, 6, 7],
    "nucleus[v](ref[v], 1)": [0, 1, 2, 3, 4, 5, 6, 7],
    "nucleus[v | ref[v] < 0.25](ref[v], 0.3)": [1, 2],
}


@pytest.mark.parametrize(("mask", "entries"), MASKS_OF_ENTRIES.items(), ids=list(MASKS_OF_ENTRIES))
def test_masks_of_entries(mask: str, entries: list[int]) -> None:
    """The interpreter and the emitted code, padded and packed, with a different order at each
    token."""
    goal = f"mean[p,i,t] sum[v | {mask}] log(pi[v])"
    given = objdsl.loads(f"objective x\nmaximize {goal}\n")
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(8) for _ in range(6)]).reshape(3, 2, 8)
    ref = torch.from_numpy(np.log(np.array(PROBABILITIES)[order]))
    pi = torch.from_numpy(rng.normal(size=(3, 2, 8))).log_softmax(-1)
    wanted = np.isin(order, entries)
    expected = float(np.where(wanted, pi.numpy(), 0).sum(-1).mean())
    columns = {"log_pi_dist": pi.numpy(), "log_ref_dist": ref.numpy()}
    (value,) = evaluate([given.formula.goal], Batch([0, 0, 1], [2] * 3, columns, 8))
    assert value == pytest.approx(expected, abs=1e-12)
    prompt = [0, 0, 1]
    step = given.prepare(prompt=prompt, mask=torch.ones(3, 2), log_ref_dist=ref)
    J, weights, _ = given.weights(step=step, log_pi_dist=pi)
    assert float(J) == pytest.approx(expected, abs=1e-12)
    assert (weights["log_pi_dist"] != 0).numpy().tolist() == wanted.tolist()
    flat = given.prepare(
        prompt=prompt, lengths=torch.tensor([2] * 3), log_ref_dist=ref.flatten(0, 1)
    )
    J, weights, _ = given.weights(step=flat, log_pi_dist=pi.flatten(0, 1))
    assert (weights["log_pi_dist"] != 0).numpy().tolist() == wanted.reshape(6, 8).tolist()


def test_masks_of_entries_in_the_head() -> None:
    """The fused head has the gradient of the plain computation."""
    given = objdsl.loads(
        "objective x\nnear = nucleus[v](pi[v], 0.8)\n"
        "maximize mean[p,i,t] (sum[v | near] (pi[v] * log(pi[v] / ref[v])))"
        " + mean[p,i,t] sum[v | topk[v](ref[v], 3)] (ref[v] * log(pi[v]))\n"
    )
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    ref = torch.randn(3, 4, 9, dtype=torch.float64).log_softmax(-1)
    mask = torch.arange(4) < torch.tensor([2, 4, 3])[:, None]
    tokens = torch.randint(9, (3, 4))
    step = given.prepare(prompt=[0, 0, 1], mask=mask, log_ref_dist=ref)
    plain = hidden.clone().requires_grad_()
    log_pi_dist = (plain @ head.T).log_softmax(-1)
    _, weights, _ = given.weights(step=step, log_pi_dist=log_pi_dist.detach())
    log_pi_dist.backward(-weights["log_pi_dist"])
    fused = hidden.clone().requires_grad_()
    given.fused(fused, head, tokens, step).loss.backward()
    assert plain.grad is not None and fused.grad is not None
    torch.testing.assert_close(fused.grad, plain.grad, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nucleus[i](reward, 0.5)", "`nucleus` runs over the vocabulary"),
        ("sum[v | rank[v] pi[v] < 3] pi[v]", "`rank` does not run over the vocabulary"),
        ("median[v] pi[v]", "`median` does not run over the vocabulary"),
        ("sum[v | topk[v](pi[v], -1)] pi[v]", "a count is at least 0"),
        ("sum[v | nucleus[v](pi[v], 1.5)] pi[v]", "a mass lies between 0 and 1"),
        ("quantile[i] reward", r"write `quantile\[i\]\(x, fraction\)`"),
        ("median[i](reward, 0.5)", r"write `median\[i\] x`"),
        ("quantile[i](reward, 1.5)", "a fraction lies between 0 and 1"),
        ("quantile[i](reward, reward)", "a fraction is one number"),
        ("rank[t] reward", "reward` has no token index"),
        ("rank[j != i] reward", "to which no element itself belongs"),
        ("median(reward)", "`median` needs the indices"),
        ("medain[i] reward", "there is no reduction `medain`"),
    ],
)
def test_mistakes(expression: str, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        objdsl.loads(f"objective x\nA = {expression}\nmaximize mean[p,i] (reward * sum[t] pi)\n")


def test_ties_share_the_gradient_of_a_quantile() -> None:
    given = objdsl.loads("objective x\nmaximize median[p,i,t] log(pi)\n")
    log_pi = torch.tensor([[-1.0], [-1.0], [-1.0], [-0.5]], dtype=torch.float64)
    step = given.prepare(prompt=[0, 0, 0, 0], mask=torch.ones(4, 1), dtype=torch.float64)
    _, weights, _ = given.weights(log_pi, step)
    assert weights["log_pi"][:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_what_is_not_at_the_quantile_may_be_infinite() -> None:
    text = "objective x\ngiven x[p,i]\nmaximize mean[p,i] ((median[i] log(x)) * sum[t] pi)\n"
    given = objdsl.loads(text)
    batch = Batch([0] * 3, [1] * 3, {"x": [0.0, math.e, 9.0], "log_pi": [[-1.0]] * 3})
    assert evaluate([given.formula.goal], batch) == [pytest.approx(math.exp(-1))]
    x = torch.tensor([0.0, math.e, 9.0], dtype=torch.float64)
    step = given.prepare(prompt=[0] * 3, mask=torch.ones(3, 1), x=x)
    value, _, _ = given.weights(-torch.ones(3, 1, dtype=torch.float64), step)
    assert float(value) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("name", ["median", "quantile", "rank", "trim", "topk", "nucleus"])
def test_a_name_of_the_file_wins(name: str) -> None:
    given = objdsl.loads(
        f"objective x\nparam {name} = 0.5\nmaximize mean[p,i] ({name} * reward * sum[t] log(pi))\n"
    )
    assert [param.name for param in given.formula.params] == [name]
    called = f"objective x\ndef {name}(x) = 2 * x\nmaximize mean[p,i] ({name}(reward) * sum[t] pi)"
    assert objdsl.loads(called).formula.columns.keys() == {"reward", "log_pi"}
    with pytest.raises(ObjectiveError, match=f"`{name}` is a name of this file"):
        objdsl.loads(
            f"objective x\nparam {name} = 0.5\nA = {name}[i] reward\n"
            "maximize mean[p,i] (A * sum[t] pi)\n"
        )
