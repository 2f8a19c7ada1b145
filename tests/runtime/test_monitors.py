"""Monitors against direct computations, and where a run writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.runtime.engines.batch import Batch, collate
from objdsl.runtime.engines.sampler import Response
from objdsl.runtime.learning.monitors import (
    ENTROPY,
    RIGHT,
    ROLLOUT,
    merged,
    monitored,
    of_lengths,
    of_policies,
    of_update,
)
from objdsl.runtime.report.metrics import DOCUMENTED, is_metric
from objdsl.runtime.run.run import Result

LENGTHS = (3, 1, 4, 2, 5, 2)


@pytest.fixture
def batch() -> Batch:
    """Six responses to two prompts, with the log-probabilities of three policies; padding is NaN
    where nobody may read it."""
    torch.manual_seed(0)
    responses = [Response((2,) * size, (-1.0,) * size, truncated=False) for size in LENGTHS]
    whole = collate(
        [[3, 4]] * len(LENGTHS), [0, 0, 0, 1, 1, 1], responses, {"reward": [1.0, 0, 1, 0, 0, 1]},
        vocabulary=9, device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip
    old = -torch.rand(whole.mask.shape, dtype=torch.float64) - 0.2
    columns = {
        ROLLOUT: old,
        "log_mu": (old + 0.2 * torch.randn_like(old)).clamp(max=0),
        "log_ref": (old + 0.3 * torch.randn_like(old)).clamp(max=0),
        ENTROPY: torch.rand_like(old),
        RIGHT: whole.columns["reward"],
    }
    return whole.with_columns({name: x.where(whole.mask, torch.nan) if x.dim() > 1 else x
                              for name, x in columns.items()})  # fmt: skip


def tokens(batch: Batch, x: Tensor, rows: list[int] | None = None) -> list[float]:
    return [float(x[k, t]) for k in (range(6) if rows is None else rows) for t in range(LENGTHS[k])]


def test_divergences_and_weights_of_the_sample(batch: Batch) -> None:
    metrics = of_policies(batch)
    old, mu, ref = (tokens(batch, batch.columns[name]) for name in (ROLLOUT, "log_mu", "log_ref"))
    assert metrics["entropy"] == pytest.approx(fmean(tokens(batch, batch.columns[ENTROPY])))
    for name, above, below in (("kl_mu_old", mu, old), ("kl_old_ref", old, ref)):
        ratios = [math.exp(q - p) for p, q in zip(above, below, strict=True)]
        assert metrics[f"{name}_k1"] == pytest.approx(fmean(-math.log(r) for r in ratios))
        assert metrics[f"{name}_k2"] == pytest.approx(fmean(math.log(r) ** 2 / 2 for r in ratios))
        assert metrics[f"{name}_k3"] == pytest.approx(fmean(r - 1 - math.log(r) for r in ratios))
    weights = [math.exp(p - q) for p, q in zip(old, mu, strict=True)]
    assert metrics["mismatch"] == pytest.approx(fmean(abs(math.log(w)) for w in weights))
    assert metrics["mismatch_max"] == pytest.approx(max(weights))
    ends = [sum(LENGTHS[: k + 1]) for k in range(6)]
    whole = [math.prod(weights[end - size : end]) for size, end in zip(LENGTHS, ends, strict=True)]
    for name, many in (("tokens", weights), ("responses", whole)):
        share = sum(many) ** 2 / (len(many) * sum(w * w for w in many))
        assert metrics[f"effective_{name}"] == pytest.approx(share)
        assert share < 0.999


def test_ratios_and_lengths_by_correctness(batch: Batch) -> None:
    log_pi = batch.columns[ROLLOUT] + 0.5 * torch.randn_like(batch.columns[ROLLOUT])
    metrics = of_update(batch, log_pi)
    ratio = (log_pi - batch.columns[ROLLOUT]).exp()
    for name, rows in (("right", [0, 2, 5]), ("wrong", [1, 3, 4])):
        values = tokens(batch, ratio, rows)
        assert metrics[f"ratio_{name}"] == pytest.approx(fmean(values))
        assert metrics[f"ratio_{name}_min"] == pytest.approx(min(values))
        assert metrics[f"ratio_{name}_max"] == pytest.approx(max(values))
    every = tokens(batch, ratio)
    assert metrics["kl_old_pi_k1"] == pytest.approx(-fmean(map(math.log, every)))
    assert metrics["kl_old_pi_k3"] == pytest.approx(fmean(r - 1 - math.log(r) for r in every))
    lengths = of_lengths([*range(1, 12), 50], [True] * 11 + [False])
    assert (lengths["length_right"], lengths["length_wrong"]) == (6, 50)
    assert (lengths["length_right_p10"], lengths["length_right_p90"]) == (2, 10)
    assert "length_right" not in of_lengths([1], [False])
    steps = [{"a": 1.0, "a_max": 1.0, "a_min": 1.0}, {"a": 3.0, "a_max": 2.0, "a_min": 0.0, "b": 1}]
    assert merged(steps) == {"a": 2.0, "a_max": 2.0, "a_min": 0.0, "b": 1}


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "dual_clip", "gmpo", "icepop", "cispo"])
def test_shares_of_clips_and_weights(name: str) -> None:
    objective = objdsl.load(name)
    torch.manual_seed(1)
    old = -torch.rand(12, 5, dtype=torch.float64) - 0.7
    mask = torch.arange(5) < torch.randint(1, 6, (12,))[:, None]
    step = {
        "log_old": old, "log_ref": old, "log_mu": old, "value_old": torch.zeros_like(old),
        "reward": torch.tensor([1.0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0], dtype=torch.float64),
        "prompt": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], "mask": mask,
    }  # fmt: skip
    width = 2e-3 if name == "gspo" else 0.7
    log_pi = (old + width * torch.randn_like(old)).requires_grad_()
    values = {"value": torch.zeros_like(old)} if "value" in objective.live else {}
    watched = monitored(objective)
    whole = watched.prepare(**step)
    output = watched(log_pi, whole, **values)
    (gradient,) = torch.autograd.grad(output.loss, log_pi)
    kept = torch.ones(12, dtype=torch.bool)
    if name == "dapo":
        kept[3:6] = False  # all right
    counted = mask & kept[:, None]
    weightless = float((gradient[counted] == 0).double().mean())
    assert float(output.reports["weightless"]) == pytest.approx(weightless, abs=1e-12)
    plain = objective(log_pi, objective.prepare(**step), **values)
    assert float(plain.loss.detach()) == float(output.loss.detach())
    assert {k: float(x) for k, x in plain.reports.items()} == {
        k: float(output.reports[k]) for k in plain.reports
    }
    if name == "cispo":  # its bound is a minimum, not a clip
        assert "clip_low" not in output.reports
        return
    ratio = (log_pi.detach() - old).exp()
    low, high = {"dapo": (0.8, 1.28), "gspo": (1 - 3e-4, 1 + 4e-4),
                 "gmpo": (math.exp(-0.4), math.exp(0.4))}.get(name, (0.8, 1.2))  # fmt: skip
    reward = step["reward"].view(4, 3)  # type: ignore[attr-defined]
    advantage = (reward - reward.mean(1, keepdim=True)).view(12, 1)
    if name == "dual_clip":  # with a critic of zeros, the return to go is the advantage
        advantage = step["reward"][:, None] * torch.ones_like(old)  # type: ignore[index]
    below, above = (ratio < low) & (advantage < 0), (ratio > high) & (advantage > 0)
    if name == "gspo":
        mean = ((log_pi.detach() - old) * mask).sum(1) / mask.sum(1)
        outcome = advantage[:, 0]
        expected = [((mean.exp() < low) & (outcome < 0)), ((mean.exp() > high) & (outcome > 0))]
        shares = [float(x.double().mean()) for x in expected]
    else:
        shares = [float(x[counted].double().mean()) for x in (below, above)]
    assert shares[1] > 0
    assert float(output.reports["clip_low"]) == pytest.approx(shares[0], abs=1e-12)
    assert float(output.reports["clip_high"]) == pytest.approx(shares[1], abs=1e-12)


def test_a_report_of_the_file_keeps_its_name() -> None:
    text = "report clip_low = mean[p,i] (2 * reward)\nmaximize mean[p,i,t] clip(pi / old, 1, 2)\n"
    watched = monitored(objdsl.loads(f"objective o\n{text}"))
    assert watched.report_names == ("clip_low", "clip_high", "weightless")


def test_a_run_writes_what_it_can_know(
    run: Callable[..., Result], numbers: Callable[[Path], list[dict[str, float]]], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"learner.lr": 3e-2, "steps": 2}
    several = numbers(run("grpo", **options, **{"learner.epochs": 3}).folder)[1:]
    once = numbers(run("grpo", output=tmp_path / "once", **options).folder)[1:]
    moved = {"kl_old_pi_k1", "kl_old_pi_k2", "kl_old_pi_k3"}
    for step in several:
        assert step["kl_old_pi_k3"] > 0
        assert step["ratio_wrong_min"] < 1 < step["ratio_wrong_max"]
        assert {*of_lengths([1, 1], [True, False])} <= step.keys()
        assert 0 <= step["clip_low"] + step["clip_high"] <= step["clip_fraction"]
    assert sum(step["clip_low"] + step["clip_high"] for step in several) > 0
    for step in once:
        assert not moved & step.keys() and "ratio_right" not in step
        assert step["clip_low"] == step["clip_high"] == 0
        assert step["effective_tokens"] == pytest.approx(1)
    documented = {name for name in DOCUMENTED if "<" not in name}
    assert {*several[0]} - {"clip_fraction"} - documented == {
        name for name in several[0] if is_metric(name)
    } - documented
