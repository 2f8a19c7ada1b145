"""`objdsl compare`: objectives and Python losses on the same steps."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

REINFORCE = """objective reinforce
A = reward - mean[i] reward
maximize mean[p,i,t] (A * log(pi))
"""
LOSS = """import torch

def loss(log_pi, advantages, mask, factor=1.0):
    return -factor * (advantages * log_pi * mask).sum() / mask.sum()
"""


@pytest.fixture
def files(run: Run) -> Run:
    """`run`, in a folder that has both."""
    Path("a.obj").write_text(REINFORCE)
    Path("losses.py").write_text(LOSS)
    return run


def test_the_exit_code_says_whether_they_are_the_same(files: Run) -> None:
    same = files("compare", "a.obj", "losses.py:loss", "--steps", "2")
    assert same.exit_code == 0 and "the same on " in same.output
    factor = files("compare", "a.obj", "losses.py:loss", "--steps", "2", "--pass", "factor=2")
    assert factor.exit_code == 1
    assert "a constant factor: B is 2 times A" in factor.output


def test_the_test_that_is_written_fails_until_they_are_the_same(files: Run) -> None:
    Path("b.obj").write_text(REINFORCE.replace("mean[p,i,t]", "mean[p,i] sum[t]"))
    options = ("--steps", "2", "--output-format", "json", "--test", "test_it.py")
    result = files("compare", "b.obj", "losses.py:loss", "--advantages", "b.obj", *options)
    assert result.exit_code == 1
    record = json.loads(result.output[: result.output.rindex("}") + 1])
    assert [x["kind"] for x in record["differences"]] == ["divisor"]
    assert len(record["example"]["lengths"]) <= 2
    test = runpy.run_path("test_it.py")["test_they_are_the_same"]
    with pytest.raises(AssertionError, match="the gradients differ"):
        test()
    Path("b.obj").write_text(REINFORCE)
    test()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(log_pi): pass", "has no function 'loss'"),
        ("def loss(log_pi):\n    return log_pi @ 3", "losses.py:2 in loss: return log_pi @ 3"),
        ("def loss(log_pi): return log_pi", "and not a scalar"),
        ("def loss(log_pi): return 3.0", "returns a float, and not a tensor"),
        ("def loss(log_pi): return log_pi.sum().log()", "is nan"),
        ("def loss(log_pi): return log_pi.detach().sum()", "has no gradient"),
        ("def loss(log_pi): return (log_pi * 0).sqrt().sum()", "is not finite at [0, 0]"),
        ("def loss(log_pi, rewrd): return log_pi.sum()", "did you mean 'reward'?"),
        ("def loss(reward): return reward.sum()", "does not ask for log_pi"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes_are_named(files: Run, text: str, message: str) -> None:
    Path("losses.py").write_text(text)
    result = files("compare", "a.obj", "losses.py:loss", "--steps", "1")
    assert result.exit_code == 2
    assert message in result.output


def test_golden_values_guard_a_loss(files: Run) -> None:
    assert files("compare", "losses.py:loss", "--steps", "1", "--save", "g.json").exit_code == 0
    same = files("compare", "losses.py:loss", "--against", "g.json")
    assert same.exit_code == 0 and "is the same on 4 recorded steps" in same.output
    changed = files("compare", "losses.py:loss", "--against", "g.json", "--pass", "factor=1.01")
    assert changed.exit_code == 1 and "by up to 0.01 of its norm" in changed.output
    edited = Path("g.json").read_text().replace('"value": ', '"value": 1', 1)
    Path("g.json").write_text(edited)
    assert files("compare", "losses.py:loss", "--against", "g.json").exit_code == 2
    assert files("compare", "losses.py:loss").exit_code == 2


def test_a_python_loss_is_audited(files: Run) -> None:
    size = ("--vocabulary", "2", "--horizon", "2", "--policies", "1", "--drift", "0.3")
    result = files("audit", "losses.py:loss", "--advantages", "a.obj", "--json", *size)
    assert result.exit_code == 0, result.output
    expected = files("audit", "a.obj", "--prompts", "2", "--group", "2", "--json", *size)
    mine, theirs = (json.loads(x.output)["rows"] for x in (result, expected))
    assert [row["residual"]["mean"] for row in mine] == pytest.approx(
        [row["residual"]["mean"] for row in theirs], abs=1e-9
    )
    refused = files("audit", "losses.py:loss", "--set", "eps=1")
    assert refused.exit_code == 2 and "--set, --given and --step" in refused.output
