"""`objdsl audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]
SMALL = ("--vocabulary", "2", "--horizon", "3", "--group", "2", "--policies", "1")


def test_the_tables(run: Run) -> None:
    result = run("audit", "grpo", *SMALL, "--drift", "0.1")
    assert result.exit_code == 0, result.output
    assert "exact: all 10 outcomes of a step are summed" in result.output
    for text in ("real, on policy", "real, stale 0.1", "real, mismatch 0.1", "binary, on policy"):
        assert text in result.output
    assert "better than average" in result.output
    assert "nearest is the forward KL, per token" in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_json(run: Run) -> None:
    report = json.loads(run("audit", "rloo", "--json", *SMALL).output)
    assert report["objective"] == "rloo"
    assert report["residual"] < 1e-8


def test_hyper_parameters(run: Run) -> None:
    report = json.loads(run("audit", "grpo", "--json", "--set", "beta=0", *SMALL).output)
    assert report["params"]["beta"] == 0
    result = run("audit", "grpo", "--set", "betta=0")
    assert result.exit_code == 2
    assert "did you mean 'beta'?" in result.output
    assert run("audit", "grpo", "--set", "beta").exit_code == 2
    assert run("audit", "grpo", "--set", "beta=much").exit_code == 2


def test_a_column_that_is_missing(run: Run) -> None:
    result = run("audit", "remax", *SMALL)
    assert result.exit_code == 1
    assert "--given greedy=random" in result.output
    assert run("audit", "remax", "--given", "greedy=0.5", *SMALL).exit_code == 0


def test_a_picture(run: Run) -> None:
    pytest.importorskip("matplotlib")
    result = run("audit", "grpo", "--picture", "grpo.png", *SMALL)
    assert result.exit_code == 0, result.output
    assert Path("grpo.png").read_bytes().startswith(b"\x89PNG")
