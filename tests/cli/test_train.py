"""`objdsl train`: settings, refusals and runs from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from objdsl.runtime.settings.config_io import read_config

Run = Callable[..., Result]

# The smallest run that goes through every part but vLLM.
SMALL = (
    "--steps=2", "--warm_start.steps=1", "--warm_start.batch=2", "--model.width=16",
    "--model.heads=2", "--model.layers=1", "--sampler.engine=transformers", "--sampler.prompts=2",
    "--sampler.group=2", "--task.held_out=2", "--report.samples=1",
)  # fmt: skip


def test_a_run_its_folder_and_its_curves(run: Run) -> None:
    result = run("train", "dr_grpo", *SMALL, "--set", "eps=0.1", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "dr_grpo (eps 0.1" in result.output
    steps = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1, 2]
    config = read_config(Path("out/config.yaml"))
    assert config.params == {"eps": 0.1}
    assert config.sampler.prompts == 2

    assert run("plot", "out").output == "wrote curves.png\n"
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    assert run("plot", "out", "-o", "reward.svg", "--metric", "reward").exit_code == 0
    assert "no run has the metric `rewrd`" in run("plot", "out", "--metric", "rewrd").output

    again = run("train", "dr_grpo", *SMALL, "--set=eps=0.1", "--output=out", "--resume=auto")
    assert again.exit_code == 2
    assert "has done 2 of 2 steps" in again.output
    more = run(
        "train", *SMALL[1:], "dr_grpo", "--set=eps=0.1", "--output", "out", "--resume", "auto",
        "--steps", "3",
    )  # fmt: skip
    assert more.exit_code == 0, more.output
    steps = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1, 2, 3]


def test_flags_stand_over_the_file(run: Run) -> None:
    Path("run.yaml").write_text("steps: 5\nlearner:\n  lr: 1e-5\n")
    printed = run("train", "--print-config", "--config", "run.yaml", "dapo", "--steps", "7")
    assert printed.exit_code == 0
    Path("printed.yaml").write_text(printed.output)
    config = read_config(Path("printed.yaml"))
    assert (config.objective, config.steps, config.learner.lr) == ("dapo", 7, 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learner.lrr", "3"], "did you mean `learner.lr`?"),
        (["--learner.lr", "fast"], "`learner.lr` is 'fast'"),
        (["--learner.lr"], "--learner.lr has no value"),
        (["--steps", "--output", "out"], "--steps has no value"),
        (["--resum", "auto"], "did you mean `--resume`?"),
        (["--set", "eps"], "as `--set eps=0.1`"),
        (["grpo", "--beta", "0.0"], "`--set beta=0.0`"),
        (["--num_generations", "8"], "it is called `sampler.group` here"),
        (["--resume_from_checkpoint", "x"], "it is an option: `--resume auto`"),
        (["grpo", "actor_rollout_ref.rollout.n=8"], "it is called `sampler.group` here"),
        (["grpo", "learner.lr=1e-6"], "write `--learner.lr=1e-6`"),
        (["--set", "epss=0.1"], "did you mean 'eps'?"),
        (["dapoo"], "did you mean `dapo`?"),
        (["dapo", "grpo", "--resume", "runs/dapo"], "several runs are resumed by `--resume auto`"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_ends_before_anything_starts(
    run: Run, arguments: list[str], message: str
) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not Path("runs").exists()


def test_an_objective_with_errors_is_not_trained_with(run: Run) -> None:
    Path("bad.obj").write_text("objective bad\nmaximize rewrd\n")
    result = run("train", "bad.obj", *SMALL)
    assert result.exit_code == 2
    assert "bad.obj:2:10" in result.output


def test_reward_functions_stand_beside_the_run(run: Run) -> None:
    Path("beside_the_run.py").write_text(
        "def even(completions, **_):\n"
        "    return [float(c[:1] in '02468') for c in completions]\n"
        "def offline(**_):\n"
        "    raise RuntimeError('the judge is offline')\n"
    )
    named = ["--rewards.beside_the_run:even", "2", "--rewards.exact", "1", "--output", "out"]
    result = run("train", *SMALL, *named)
    assert result.exit_code == 0, result.output
    assert read_config(Path("out/config.yaml")).rewards == {"beside_the_run:even": 2, "exact": 1}
    failed = run("train", *SMALL, "--rewards", "beside_the_run:offline", "--output", "failed")
    assert failed.exit_code == 1
    assert "error: reward function `beside_the_run:offline` failed: RuntimeErr" in failed.output
    assert not Path("failed").exists()


def test_a_folder_that_cannot_be_written(run: Run) -> None:
    Path("file").write_text("")
    result = run("train", *SMALL, "--output", "file/run")
    assert result.exit_code == 1
    assert "error: [Errno" in result.output


def test_plot_wants_runs(run: Run) -> None:
    Path("empty").mkdir()
    assert "has no metrics to plot" in run("plot", "empty").output
    assert run("plot", "none").exit_code == 2
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    assert "File exists: 'empty/file'" in _plot_into_a_file(run)


def _plot_into_a_file(run: Run) -> str:
    Path("empty/file").write_text("")
    return run("plot", "run", "-o", "empty/file/curves.png").output
