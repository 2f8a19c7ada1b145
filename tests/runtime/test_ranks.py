"""Data parallelism: a run of two processes has the same numbers as a run of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers import training_ranks
from helpers.two_processes import run_two
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.processes import signals
from objdsl.runtime.processes.signals import stop_requests
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config
from objdsl.runtime.settings.config_io import config_yaml
from objdsl.runtime.storage.checkpoint import find

Numbers = Callable[[Path], list[dict[str, float]]]

# Adam turns a gradient of rounding errors into a step of size `lr`, hence the large epsilon.
SAME = {
    "model.dtype": "float64",
    "learner.lr": 1e-2,
    "learner.epsilon": 1e-3,
    "rewards": {"helpers.reward_functions:even": 1.0},
}
RUNS: dict[str, dict[str, Any]] = {
    # Nine rows in pieces of two: the last piece of the second process is empty.
    "grpo": {"sampler.prompts": 3, "sampler.group": 3, "learner.micro_batch": 2},
    "clip_cov": {"params.low": 0.0, "params.high": 0.5, "params.fraction": 0.3},
    "ppo": {"learner.minibatches": 2, "learner.epochs": 2},
    "adaptive_kl": {
        "learner.critic": "model",
        "learner.critic_warm_up": 1,
        "learner.micro_batch": 3,
    },
    "rloo": {"model.dtype": "float32"},
    "kl_cov": {"learner.head": "fused", "learner.micro_batch": 3, "params.fraction": 0.3},
}
PARALLEL = ("ddp", "fsdp")


def back_to_the_middle(folder: Path, copy: Path) -> Path:
    """A copy of a run as if it had crashed after its second step of four."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / "step-000004")
    return copy


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the policy, and of its critic if that is a network of its own."""
    saved = folder / "checkpoints" / "step-000004"
    critic = saved / "critic" / "model.safetensors"
    weights = load_file(critic) if critic.exists() else {}
    return {
        **{f"critic {k}": x for k, x in weights.items()},
        **load_file(saved / "model.safetensors"),
    }


def assert_the_same_run(folder: Path, other: Path, numbers: Numbers) -> None:
    weights, twice = last_weights(folder), last_weights(other)
    assert weights.keys() == twice.keys()
    # The norms of Qwen3 compute in float32, whatever the weights are.
    double = next(iter(weights.values())).dtype == torch.float64
    rel, near = (1e-5, 1e-7) if double else (1e-3, 1e-5)
    for name, x in weights.items():
        torch.testing.assert_close(twice[name], x, rtol=rel, atol=near)
    steps, others = numbers(folder), numbers(other)
    assert len(steps) == 5
    for single, several in zip(steps, others, strict=True):
        assert single.keys() == several.keys()
        assert several == pytest.approx(single, rel=rel, abs=near)
    assert sum(step["grad_norm"] > 1e-3 for step in steps[1:]) > 1  # something was learned


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_one(
    settings: Callable[..., Config], run: Callable[..., Result], numbers: Numbers, tmp_path: Path
) -> None:  # fmt: skip
    alone = {
        name: run(name, output=tmp_path / name, **{**SAME, **more}).folder
        for name, more in RUNS.items()
    }
    jobs: list[tuple[dict[str, Any], str | None]] = []
    for name, more in RUNS.items():
        for parallel in PARALLEL:
            chosen = {**SAME, **more, "learner.parallel": parallel}
            config = settings(name, output=tmp_path / f"{name}-{parallel}", **chosen)
            jobs.append((config.model_dump(), None))
    # From one process to two.
    halves = back_to_the_middle(alone["ppo"], tmp_path / "one-two")
    config = settings("ppo", output=halves, **SAME, **RUNS["ppo"], learner__parallel="fsdp")
    jobs.append((config.model_dump(), str(halves)))
    run_two(training_ranks.work, tmp_path, jobs)

    for name, folder in alone.items():
        for parallel in PARALLEL:
            assert_the_same_run(folder, tmp_path / f"{name}-{parallel}", numbers)
    assert_the_same_run(alone["ppo"], halves, numbers)
    # From two to one.
    for parallel in PARALLEL:
        halves = back_to_the_middle(tmp_path / f"ppo-{parallel}", tmp_path / f"{parallel}-one")
        run("ppo", output=halves, _resume=str(halves), **SAME, **RUNS["ppo"])
        assert_the_same_run(alone["ppo"], halves, numbers)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(tmp_path: Path) -> None:
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = """
        -m torch.distributed.run --standalone --nproc-per-node 2 -m objdsl train dr_grpo
        --steps 3 --model.layers 1 --model.width 16 --model.heads 2 --task.held_out 0
        --sampler.engine transformers --sampler.prompts 2 --sampler.group 2 --warm_start.steps 0
        --report.curves false
    """.split()
    settings = [
        "--rewards",
        json.dumps({"helpers.reward_functions:deadly": 1.0}),
        "--output",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, *command, *settings], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode != 0
    assert "2 processes, each with all the weights" in done.stdout
    assert "error: another process of the run is gone" in done.stderr


def test_a_signal_waits_for_the_step_and_for_error_messages() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with stop_requests() as stop:  # before the first step nothing is lost
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        with stop_requests() as stop:
            stop.waits = True
            signal.raise_signal(signal.SIGTERM)
            assert (heard, stop.signal) == ([signal.SIGTERM], signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # a launcher's threads die one after the other
            signal.raise_signal(signal.SIGINT)  # and one key press may come twice
            stop.time -= 2 * signals.AGAIN
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert heard == 2 * [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_shares_cover_all_rows_in_equally_many_pieces() -> None:
    prompt = torch.tensor([2, 0, 1, 1, 0, 2, 0])
    start, length = torch.full((7,), 2), torch.tensor([8, 1, 1, 2, 1, 8, 1])
    nothing = torch.zeros(7, 0)
    batch = Batch(nothing, start, length, nothing, nothing, prompt, {})
    for many, size in ((1, None), (1, 3), (2, None), (2, 2), (3, 2), (9, 4)):
        shares = batch.shares(many, size)
        assert len(shares) == many
        assert len({len(pieces) for pieces in shares}) == 1
        order = torch.cat([rows for pieces in shares for rows in pieces])
        assert sorted(order.tolist()) == list(range(7))
        assert many == 1 or prompt[order].tolist() == sorted(prompt.tolist())
        assert all(len(rows) <= (size or 7) for pieces in shares for rows in pieces)
    # Two long responses have as many tokens as the five others.
    assert [[len(rows) for rows in pieces] for pieces in batch.shares(2, 3)] == [[3, 2], [2, 0]]
    assert batch.shares(1, None)[0][0].tolist() == list(range(7))


def is_running(pid: str) -> bool:
    """Whether a process runs, and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_ranks_end_with_their_launcher(settings: Callable[..., Config], tmp_path: Path) -> None:
    config = settings("dr_grpo", steps=100_000, evaluation__every=0, rewards={"exact": 1.0})
    (tmp_path / "run.yaml").write_text(config_yaml(config))
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m objdsl train --config"
    process = subprocess.Popen(
        [sys.executable, *command.split(), str(tmp_path / "run.yaml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        time.sleep(0.05)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(ranks) == 2
    process.kill()
    process.wait()
    while any(is_running(pid) for pid in ranks):
        time.sleep(0.05)
    # Both completed their step, and saved it.
    newest = find(tmp_path / "run" / "checkpoints")
    assert newest.saved is not None
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert newest.saved.progress.step == last["step"]
