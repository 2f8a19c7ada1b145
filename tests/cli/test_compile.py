"""`objdsl compile`: the formula and the emitted source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import objdsl

Run = Callable[..., Result]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_it_prints_the_source_that_runs(run: Run, layout: str) -> None:
    printed = run("compile", "grpo", "--layout", layout).output
    assert printed == objdsl.load("grpo").source(layout)


def test_it_writes_a_file(run: Run) -> None:
    printed = run("compile", "grpo").output
    assert run("compile", "grpo", "-o", "grpo.py").output == "wrote grpo.py\n"
    assert Path("grpo.py").read_text() == printed


@pytest.mark.parametrize(
    "options",
    [
        ["--latex", "--stage", "torch"],
        ["--latex", "--stage", "tree"],
        ["--layout", "packed", "--stage", "weights"],
        ["--layout", "padded", "--latex"],
    ],
)
def test_no_option_is_left_aside(run: Run, options: list[str]) -> None:
    result = run("compile", "grpo", *options)
    assert result.exit_code == 2
    assert f"Error: {options[0]} " in result.output


def test_the_tree_is_json_with_places_in_the_text(run: Run) -> None:
    text = "objective o\nmaximize mean[p,i,t] (reward * pi)\n"
    tree = json.loads(run("compile", "-", "--stage", "tree", input=text).output)
    header, goal = tree["statements"]
    assert header["node"] == "Header"
    assert goal["node"] == "Goal"
    start, end = goal["value"]["span"]
    assert text[start:end] == "mean[p,i,t] (reward * pi)"


@pytest.mark.parametrize(
    "name", ["reinforce", "grpo", "dapo", "gspo", "clip_cov", "kl_exact", "ppo"]
)
def test_the_plan(run: Run, golden: Callable[[str, str], None], name: str) -> None:
    golden(f"plan/{name}.txt", run("compile", name, "--stage", "plan").output)


def test_the_kernel(run: Run) -> None:
    printed = run("compile", "grpo", "--stage", "triton").output
    assert printed == (GOLDEN / "emit/grpo_triton.py").read_text()
    refused = run("compile", "gspo", "--stage", "triton")
    assert refused.exit_code == 2
    assert "its weights depend on sum[t] log(pi / old)" in " ".join(refused.output.split())


def test_a_plan_for_one_policy(run: Run) -> None:
    text = (
        "objective two\npolicy inner = pi at layer 2\n"
        "maximize mean[p,i] (reward * sum[t] (log(pi) + log(inner)))\n"
    )
    result = run("compile", "-", "--stage", "plan", input=text)
    assert result.exit_code == 2
    assert "trains 2 policies" in result.output
