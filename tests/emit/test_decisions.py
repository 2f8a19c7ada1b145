"""Decisions over the whole step are made once: micro-batches whose log-probabilities are rounded
differently lose no gradient."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

import objdsl
from objdsl.ir.build import const
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.nodes import Column, Order

LENGTHS = torch.tensor([3, 13, 1, 2, 7, 9, 13, 5])
MASK = torch.arange(13) < LENGTHS[:, None]
GOALS = {
    "largest response": "mean[p] (max[i] (mean[t] log(pi)))",
    "smallest response": "mean[p] (min[i] (sum[t] (pi / old)))",
    "largest of a response's largest": "mean[p] (max[i] (max[t] exp(log(pi / old))))",
    "largest token of a group": "mean[p] (max[i,t] exp(log(pi / old)))",
    "largest token of the step": "max[p,i,t] ((reward + 1) * log(pi))",
    "largest prompt": "max[p] (mean[i] (mean[t] log(pi)))",
    "largest where a mask holds": "mean[p] (max[i | (mean[t] pi) > 0.2] (mean[t] log(pi)))",
    "largest of a response": "mean[p,i] (max[t] exp(3 * log(pi / old)))",
    "largest entry": "mean[p] (max[i] (mean[t] max[v] (pi[v] * log(pi[v]))))",
    "product": "mean[p] (prod[i] (1 - reward * exp(mean[t] log(pi))))",
    "product with a zero": "mean[p] (prod[i] (max(mean[t] log(pi) + 2, 0) + 0.1 * reward))",
    "mean of what moved": "mean[p] (mean[i,t | pi > old] (reward * log(pi)))",
    "mean of what moved, nested": "mean[p] mean[i | mean[t] log(pi / old) > 0] (mean[t] log(pi))",
    "larger than the mean": "mean[p,i] ((mean[t] log(pi) > mean[i] mean[t] log(pi)) * mean[t] pi)",
    "larger of statistics": "mean[p,i,t] (log(pi) * max(mean[i] (mean[t] pi), sg(pi)))",
    "at least the mean": "mean[p,i] max(mean[t] log(pi), mean[i] (mean[t] log(pi)))",
    "distance from the mean": "mean[p,i] abs(mean[t] log(pi) - mean[i] (mean[t] log(pi)))",
    "leave-one-out of signs": (
        "mean[p,i] ((mean[t] sign(log(pi / old)) - mean[j != i] (mean[t] sign(log(pi / old))))"
        " * mean[t] log(pi))"
    ),
    "top of a response, counted": "sum[p,i,t | top[t](log(pi / old), 0.5)] log(pi) / 40",
    "top of the step": "mean[p,i,t | top[p,i,t](log(pi / old), 0.3)] log(pi)",
    "pick": "mean[p,i,t | pick[p,i,t](pi > old, 0.3)] log(pi)",
    "spread": "mean[p] (pstd[i] (mean[t] log(pi)))",
}
VOCABULARY = 5


def objective(goal: str) -> objdsl.Objective:
    return objdsl.loads(f"objective x\nmaximize {goal}\nreport copy = {goal}\n")


def inputs(given: objdsl.Objective, tied: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns and trained inputs. With `tied`, every second response equals the one before."""
    torch.manual_seed(3)
    dist = torch.randn(8, 13, VOCABULARY, dtype=torch.float64).log_softmax(-1)
    tensors: dict[str, Any] = {
        "log_pi": dist[..., 0],
        "log_pi_dist": dist,
        "log_old": dist[..., 0] + 0.2 * torch.randn(8, 13, dtype=torch.float64),
        "reward": torch.tensor([1.0, 0.5, 1, 0, 1, 1, 0.5, 0.25], dtype=torch.float64),
        "noise": torch.rand(8, 13, dtype=torch.float64),
    }
    mask = MASK
    if tied:
        for x in tensors.values():
            x[1::2] = x[::2]
        mask = MASK[::2].repeat_interleave(2, 0)
    trained = {name: tensors[name] for name in given.live}
    columns = {name: x for name, x in tensors.items() if name in given.columns}
    columns = {name: x for name, x in columns.items() if name not in trained}
    return {**columns, "mask": mask, "prompt": torch.arange(8) // 4}, trained


def packed(columns: dict[str, Any]) -> dict[str, Any]:
    mask = columns["mask"]
    flat = {name: x[mask] if x.dim() > 1 else x for name, x in columns.items() if name != "mask"}
    return {**flat, "lengths": mask.sum(-1)}


def elsewhere(x: torch.Tensor, by: float) -> torch.Tensor:
    """The same log-probabilities, as a different kernel rounds them."""
    return x + by * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)


def in_parts(
    given: objdsl.Objective, step: objdsl.Step, trained: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The sums over micro-batches of a step, and the weights of all rows."""
    parts = [slice(0, 3), slice(3, 4), slice(4, 8)]
    outs = []
    for rows in parts:
        where = rows if step.layout == "padded" else step.tokens_of(rows)
        outs.append(given.weights(step=step[rows], **{k: x[where] for k, x in trained.items()}))
    weights = {name: torch.cat([out[1][name] for out in outs]) for name in outs[0][1]}
    reports = {name: sum(out[2][name] for out in outs) for name in outs[0][2]}
    return sum(out[0] for out in outs), weights, reports


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
def test_micro_batches_that_are_rounded_otherwise(goal: str, tied: bool) -> None:
    """Even among responses that tie: the gradient is shared as it was at the tie."""
    given = objective(goal)
    columns, trained = inputs(given, tied)
    step = given.prepare(**columns)
    value, weights, reports = given.weights(step=step, **trained)
    assert any(bool(w.any()) for w in weights.values())
    coupled = given.couple(step, **trained)
    moved = {name: elsewhere(x, 1e-6) for name, x in trained.items()}
    got, got_weights, got_reports = in_parts(given, coupled, moved)
    torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_weights, weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_reports, reports, rtol=1e-4, atol=1e-5)
    mask, flat = columns["mask"], packed(columns)
    live = {name: x[mask] for name, x in moved.items()}
    coupled = given.couple(given.prepare(**flat), **{k: x[mask] for k, x in trained.items()})
    got, packed_weights, got_reports = in_parts(given, coupled, live)
    torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-5)
    for name, w in packed_weights.items():
        torch.testing.assert_close(w, weights[name][mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_reports, reports, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor needs a C++ compiler")
@pytest.mark.parametrize("goal", list(GOALS.values())[:8:2], ids=list(GOALS)[:8:2])
def test_a_compiler_that_rounds_otherwise(goal: str) -> None:
    torch.compiler.reset()
    columns, trained = inputs(objective(goal))
    columns = {name: x.float() if x.is_floating_point() else x for name, x in columns.items()}
    trained = {name: x.float() for name, x in trained.items()}
    results = []
    for given in (objective(goal), objective(goal).compile()):
        results.append(given.weights(step=given.prepare(**columns), **trained))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    assert all(
        bool((w != 0).eq(results[0][1][name] != 0).all()) for name, w in results[1][1].items()
    )


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("goal", [goal for name, goal in GOALS.items() if name != "largest entry"])
def test_through_the_head(goal: str, coupled: bool) -> None:
    """Log-probabilities from hidden states, a chunk at a time, or after `couple` saw different
    ones."""
    given = objective(goal)
    columns, _ = inputs(given)
    torch.manual_seed(4)
    hidden, head = torch.randn(8, 13, 6), torch.randn(VOCABULARY, 6)
    tokens = torch.randint(0, VOCABULARY, (8, 13))
    log_pi = (hidden @ head.T).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    columns = {name: x.float() if x.is_floating_point() else x for name, x in columns.items()}
    step = given.prepare(**columns)
    expected = given.weights(elsewhere(log_pi, 0.0), given.couple(step, log_pi))
    hidden = hidden.requires_grad_()
    if coupled:
        step = given.couple(step, elsewhere(log_pi, 1e-6))
        parts = [slice(0, 5), slice(5, 8)]
    else:
        parts = [slice(0, 8)]
    value: Any = 0
    for rows in parts:
        out = given.fused(hidden[rows], head, tokens[rows], step[rows] if coupled else step)
        out.loss.backward()
        value = value + out.value
    torch.testing.assert_close(value, expected[0], rtol=1e-4, atol=1e-5)
    live = hidden.detach().requires_grad_()
    again = (live @ head.T).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    (-(again * expected[1]["log_pi"]).sum()).backward()
    torch.testing.assert_close(hidden.grad, live.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("fraction", "taken"),
    [(0.0, []), (0.24, []), (0.25, [2]), (0.5, [2]), (0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_top_takes_no_more_than_it_says(fraction: float, taken: list[int]) -> None:
    """The values are 1, 1, 2, 0: elements that tie at the cut are all left out."""
    numbers = [1.0, 1.0, 2.0, 0.0]
    mask = Order("top", ("i",), Column("reward", ("p", "i")), const(fraction))
    (chosen,) = evaluate([mask], Batch([0] * 4, [1] * 4, {"reward": numbers}))
    assert [k for k, flag in enumerate(chosen) if flag] == taken
    goal = f"mean[p,i,t] (top[i](reward, {fraction}) * log(pi))"
    given = objdsl.loads(f"objective x\nmaximize {goal}\n")
    step = given.prepare(
        prompt=[5] * 4, mask=torch.ones(4, 1), reward=torch.tensor(numbers, dtype=torch.float64)
    )
    weights = given.weights(torch.zeros(4, 1, dtype=torch.float64), step)[1]["log_pi"]
    assert weights[:, 0].nonzero().flatten().tolist() == taken


def test_top_stops_nothing_on_policy() -> None:
    """Where all ratios are 1, none is among the largest."""
    given = objdsl.loads(
        "objective x\nr = pi / old\n"
        "maximize mean[p,i,t] (0 if top[p,i,t](abs(log(r)), 0.2) else r * reward)\n"
    )
    columns, trained = inputs(given)
    step = given.prepare(**{**columns, "log_old": trained["log_pi"]})
    weights = given.weights(step=step, **trained)[1]["log_pi"]
    assert bool((weights[MASK & (columns["reward"] > 0)[:, None]] != 0).all())


def test_a_report_of_coupled_masks_needs_no_couple() -> None:
    """A report that counts over the step does not affect the weights."""
    given = objdsl.loads(
        "objective x\nmaximize mean[p,i,t] (0 if pi > old else reward * log(pi))\n"
        "report moved = mean[p,i,t | pi > old] log(pi)\n"
    )
    assert given.reports_need_couple and not given.needs_couple
    columns, trained = inputs(given)
    step = given.prepare(**columns)
    value, weights, reports = given.weights(step=step, **trained)
    got = in_parts_without(given, step, trained)
    torch.testing.assert_close(got, weights["log_pi"])
    assert reports["moved"] < 0
    moved = {name: elsewhere(x, 1e-6) for name, x in trained.items()}
    total, _, sums = in_parts(given, given.couple(step, **trained), moved)
    torch.testing.assert_close(total, value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums["moved"], reports["moved"], rtol=1e-4, atol=1e-5)


def in_parts_without(
    given: objdsl.Objective, step: objdsl.Step, trained: dict[str, Any]
) -> torch.Tensor:
    """The weights of a step that was cut before it was coupled."""
    outs = [given.weights(trained["log_pi"][k : k + 2], step[k : k + 2]) for k in (0, 2, 4, 6)]
    assert all(not out[2] for out in outs)
    return torch.cat([out[1]["log_pi"] for out in outs])
