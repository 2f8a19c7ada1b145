"""States in whole runs: their values, and how they are reported, saved and shared by ranks."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import training_ranks
from helpers.two_processes import run_two
from objdsl.runtime.run.dry_run import dry_run
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config, ConfigError

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

TEXT = """objective remembers
state base[p] = 0.5 next 0.7 * base + 0.3 * mean[i] reward
state pace = 1 next 0.9 * pace + 0.1 * mean[p,i] |y|
state beta = 0.1 next beta * (1 + 0.1 * clip(kl / 1e-6 - 1, -0.2, 0.2))
kl = mean[p,i,t] k2(old, ref)
{keep}
A = (reward - base) * min(1, (step + 1) / steps) / pace
maximize mean[p,i] sum[t] (pi / mu * A - beta * k2(pi, ref))
"""
Rewards = defaultdict[str, list[float]]

RESAMPLES = {"sampler.resample": 2}


@pytest.fixture
def objective(tmp_path: Path) -> Callable[..., str]:
    def write(keep: str = "") -> str:
        path = tmp_path / "remembers.obj"
        path.write_text(TEXT.format(keep=keep), encoding="utf-8")
        return str(path)

    return write


def saved(folder: Path, step: int) -> dict[str, Any]:
    path = folder / "checkpoints" / f"step-{step:06d}" / "state.json"
    states: dict[str, Any] = json.loads(path.read_text())["progress"]["states"]
    return states


def test_a_run_is_the_recursion(run: Run, numbers: Numbers, objective: Callable[..., str]) -> None:
    """Prompts return, some of them twice in a rollout."""
    more = {
        "sampler.prompts": 40, "sampler.group": 2, "learner.minibatches": 2, "learner.epochs": 2,
        "report.samples_every": 1, "checkpoint.every": 1, "checkpoint.keep": 9,
    }  # fmt: skip
    result = run(objective(), steps=5, **more)
    rewards: defaultdict[int, Rewards] = defaultdict(lambda: defaultdict(list))
    for line in (result.folder / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        rewards[row["step"]][row["prompt"]].append(row["reward"])
    base: dict[str, float] = {}
    pace, beta = 1.0, 0.1
    for metrics in numbers(result.folder)[1:]:
        step = int(metrics["step"])
        for prompt, values in rewards[step].items():
            base[prompt] = 0.7 * base.get(prompt, 0.5) + 0.3 * sum(values) / len(values)
        pace = 0.9 * pace + 0.1 * metrics["length"]
        beta *= 0.98 if step == 1 else 1.02  # the first step's policy is the reference
        assert metrics["pace"] == pytest.approx(pace)
        assert metrics["beta"] == pytest.approx(beta)
        here = [base[prompt] for prompt in rewards[step]]
        assert metrics["base"] == pytest.approx(sum(here) / len(here))
        actual = sorted(saved(result.folder, step)["prompts"]["base"].values())
        assert actual == pytest.approx(sorted(base.values()))
    assert sum(map(len, rewards.values())) > len(base) + 40  # many came again
    assert max(len(x) for step in rewards.values() for x in step.values()) == 4


@pytest.mark.parametrize("more", [{}, RESAMPLES])
def test_resumed_is_uninterrupted(
    run: Run, numbers: Numbers, tmp_path: Path, objective: Callable[..., str], more: dict[str, Any]
) -> None:
    file = objective("keep p where base < 0.9 and std[i] reward > 0" if more else "")
    straight = run(file, output=tmp_path / "straight", **more)
    halves = tmp_path / "halves"
    shutil.copytree(straight.folder, halves)
    shutil.rmtree(halves / "checkpoints" / "step-000004")  # as if it had crashed after step 3
    run(file, output=halves, _resume="auto", **more)
    assert numbers(halves) == numbers(straight.folder)
    assert saved(halves, 4) == saved(straight.folder, 4)


def test_what_resampling_drops_is_remembered(run: Run, objective: Callable[..., str]) -> None:
    """Every prompt that was sampled has a state, and each kept one has learned."""
    result = run(objective("keep p where std[i] reward > 0.4"), steps=1, **RESAMPLES)
    position = json.loads(
        (result.folder / "checkpoints" / "step-000001" / "state.json").read_text()
    )["progress"]["position"]
    assert position > 4  # some were dropped
    assert len(saved(result.folder, 1)["prompts"]["base"]) == position


def test_what_cannot_run_is_refused_before_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "spread.obj"
    path.write_text(
        "state x = 0 next mean[p] (std[i] reward)\nmaximize mean[p,i,t] (x * log(pi))\n"
    )
    with pytest.raises(ConfigError, match=r"deviation over a group.*sampler\.group is 1"):
        run(str(path), sampler__group=1)


def test_a_dry_run_says_who_makes_states(
    settings: Callable[..., Config], objective: Callable[..., str]
) -> None:
    lines = [line.split() for line in dry_run(settings(objective(), steps=3))]
    assert "base prompt the objective's own state".split() in lines
    assert "rollout_steps run the trainer, which counts rollouts".split() in lines


@pytest.mark.slow
def test_two_processes_are_one(
    settings: Callable[..., Config],
    run: Run,
    numbers: Numbers,
    tmp_path: Path,
    objective: Callable[..., str],
) -> None:
    more = {"model.dtype": "float64", "learner.epsilon": 1e-3, "sampler.prompts": 3, **RESAMPLES}
    file = objective("keep p where std[i] reward > 0")
    alone = run(file, output=tmp_path / "alone", **more).folder
    shutil.copytree(alone, tmp_path / "on")  # from one process to two
    shutil.rmtree(tmp_path / "on" / "checkpoints" / "step-000004")
    jobs = [
        (settings(file, output=tmp_path / name, **more).model_dump(), resume)
        for name, resume in (("ranks", None), ("on", str(tmp_path / "on")))
    ]
    run_two(training_ranks.work, tmp_path, jobs)
    states = saved(alone, 4)
    for name in ("ranks", "on"):
        for expected, actual in zip(numbers(alone), numbers(tmp_path / name), strict=True):
            assert actual == pytest.approx(expected, rel=1e-5, abs=1e-7)
        others = saved(tmp_path / name, 4)
        assert others["numbers"] == pytest.approx(states["numbers"])
        assert others["prompts"]["base"] == pytest.approx(states["prompts"]["base"])
