"""Numbers that are learned beside the policy, in a run: their steps, domains and storage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import learned_ranks
from helpers.two_processes import run_two
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config

TEXT = """objective constrained
param target = 0.01 in (0, inf)
learn beta = 0.1 in [0, inf)
learn tau = 1 in (0, 1.005]

A = reward - mean[j != i] reward
L = mean[p,i,t] (pi / mu * A - beta * (k2(pi, ref) - target))

maximize L - 0.1 * (tau - mean[p,i] reward)^2
minimize learn L
"""


@pytest.fixture
def constrained(tmp_path: Path) -> str:
    path = tmp_path / "constrained.obj"
    path.write_text(TEXT)
    return str(path)


def states(folder: Path, step: int) -> dict[str, Any]:
    path = folder / "checkpoints" / f"step-{step:06d}" / "trainer.pt"
    return dict(torch.load(path, weights_only=True)["optimizer"])


def test_a_run_trains_them_and_resumes(
    run: Callable[..., Result],
    numbers: Callable[[Path], list[dict[str, float]]],
    constrained: str,
    tmp_path: Path,
) -> None:
    more = {"steps": 3, "checkpoint.every": 1, "checkpoint.keep": 9, "learner.weight_decay": 0.5}
    more |= {"learner.warmup": 0, "learner.schedule": "constant"}
    straight = run(constrained, output=tmp_path / "straight", **more)
    steps = [step for step in numbers(straight.folder) if "beta" in step]
    assert len(steps) == 3
    # While the policy is within its limit, the multiplier falls; AdamW's first step is its rate.
    assert steps[0]["beta"] == pytest.approx(0.1 - 0.01, rel=1e-4)
    assert all(0 <= step["tau"] <= 1.005 for step in steps)
    saved = states(straight.folder, 3)
    assert {name: float(x) for name, x in saved["learned"].items()} == {
        name: steps[-1][name] for name in ("beta", "tau")
    }
    groups = saved["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert groups[1]["lr"] == pytest.approx(0.01)

    halves = tmp_path / "halves"
    shutil.copytree(straight.folder, halves)
    for k in (2, 3):
        shutil.rmtree(halves / "checkpoints" / f"step-{k:06d}")
    run(constrained, output=halves, _resume="auto", **more)
    resumed = states(halves, 3)
    for name, x in saved["learned"].items():
        assert torch.equal(x, resumed["learned"][name])
    for k, slots in saved["state"].items():
        assert all(torch.equal(x, resumed["state"][k][name]) for name, x in slots.items())


@pytest.mark.parametrize("way", [{"learner.micro_batch": 3}, {"learner.head": "fused"}])
def test_each_way_to_cut_a_step_moves_them_alike(
    run: Callable[..., Result],
    numbers: Callable[[Path], list[dict[str, float]]],
    constrained: str,
    tmp_path: Path,
    way: dict[str, Any],
) -> None:
    more = {"steps": 2, "model.dtype": "float64", "learner.minibatches": 2, "checkpoint.every": 0}
    results = [
        numbers(run(constrained, output=tmp_path / name, **more, **settings).folder)[-1]
        for name, settings in (("whole", {}), ("cut", way))
    ]
    assert results[0]["beta"] == pytest.approx(results[1]["beta"], rel=1e-9)
    assert results[0]["tau"] == pytest.approx(results[1]["tau"], rel=1e-9)
    assert results[0]["beta"] != 0.1


def test_they_are_put_back_into_their_domain(
    run: Callable[..., Result], numbers: Callable[[Path], list[dict[str, float]]], constrained: str
) -> None:
    more = {"steps": 2, "learner.learned_lr": 1.5, "learner.warmup": 0, "checkpoint.every": 0}
    steps = [step for step in numbers(run(constrained, **more).folder) if "beta" in step]
    assert steps[0]["beta"] == 0.0
    assert steps[0]["tau"] in (torch.finfo(torch.float32).tiny, pytest.approx(1.005))


def test_an_overflow_of_a_learned_number_ends_the_run(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "broken.obj"
    path.write_text(
        "learn tau = 1 in (0, inf)\n"
        "maximize mean[p,i,t] (reward * log(pi)) + 1e-30 * exp(1e2 * tau) * 0.1\n"
    )
    with pytest.raises(Exception, match=r"the value of objective is inf; 1 optimizer"):
        run(str(path), steps=1, **{"checkpoint.every": 0, "learner.max_skipped": 0})


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_they_are_the_same_on_all_ranks(
    parallel: str, settings: Callable[..., Config], constrained: str, tmp_path: Path
) -> None:
    more = {"model.dtype": "float64", "learner.parallel": parallel, "steps": 3}
    config = settings(constrained, output=tmp_path / "run", **more)
    run_two(learned_ranks.work, tmp_path, config.model_dump())
    ranks = [
        json.loads(learned_ranks.path(tmp_path, rank).read_text(encoding="utf-8"))
        for rank in (0, 1)
    ]
    assert len(ranks[0]) == 3 and ranks[0] == ranks[1]
    assert ranks[0][0] != ranks[0][-1]
