"""Policies that follow the trained one: copied every so many rollouts, or an average of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from objdsl import driver
from objdsl.errors import ObjectiveError
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.runtime.run.run import Result
from objdsl.source import Source
from objdsl.syntax.format import format as formatted
from objdsl.syntax.parse import parse

TEXT = """objective anchored
policy anchor = pi every 2 steps
policy slow = ema(pi, 0.9)

A = reward - mean[j != i] reward

maximize mean[p,i,t] (pi / mu * A - 0.1 * k2(pi, anchor) - 0.1 * k2(pi, slow))
"""


def test_they_are_read_and_written() -> None:
    source = Source("x.obj", TEXT)
    formula = driver.compile_source(source)
    assert [str(policy) for policy in formula.policies] == TEXT.splitlines()[1:3]
    assert formula.trained == ("log_pi",)
    assert formatted(parse(source)) == TEXT
    again = loads(Source("x.json", dumps(formula))).objective
    assert again.policies == formula.policies
    assert driver.compile_source(driver.written_out(Source("x.json", dumps(formula)))).policies


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("a = old every 2 steps", "`old` is not trained"),
        ("a = pi every 0 steps", "copied every so many steps"),
        ("a = pi every 2 tokens", "copied every so many steps"),
        ("a = mean(pi, 0.9)", "an average of its weights"),
        ("a = ema(pi, 1)", r"lies in \[0, 1\)"),
        ("a = ema(po, 0.9)", "no policy `po`"),
    ],
)
def test_mistakes_have_their_sentence(policy: str, message: str) -> None:
    text = f"policy {policy}\nmaximize mean[p,i,t] (reward * log(pi / a))\n"
    with pytest.raises(ObjectiveError, match=message):
        driver.compile_source(Source("x.obj", text))


def test_a_run_moves_them_and_resumes(run: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "anchored.obj"
    path.write_text(TEXT)
    more = {"steps": 4, "checkpoint.every": 1, "checkpoint.keep": 9, "learner.lr": 1e-2}
    straight = run(str(path), output=tmp_path / "straight", **more)

    def weights(folder: Path, step: int, name: str) -> dict[str, torch.Tensor]:
        return load_file(folder / "checkpoints" / f"step-{step:06d}" / f"{name}.safetensors")

    trained = [weights(straight.folder, k, "model") for k in (1, 2, 3, 4)]
    key = next(name for name in trained[0] if "q_proj" in name)
    anchors = [weights(straight.folder, k, "policy-anchor")[key] for k in (1, 2, 3, 4)]
    assert not torch.equal(anchors[0], trained[0][key])  # as it was at first
    assert torch.equal(anchors[1], trained[1][key]) and torch.equal(anchors[2], anchors[1])
    assert torch.equal(anchors[3], trained[3][key])
    average = anchors[0]
    for k, now in enumerate(trained, 1):
        average = 0.9 * average + 0.1 * now[key]
        slow = weights(straight.folder, k, "policy-slow")[key]
        torch.testing.assert_close(slow, average)

    halves = tmp_path / "halves"
    shutil.copytree(straight.folder, halves)
    for k in (3, 4):
        shutil.rmtree(halves / "checkpoints" / f"step-{k:06d}")
    run(str(path), output=halves, _resume="auto", **more)
    for name in ("model", "policy-anchor", "policy-slow"):
        for straight_weight, resumed_weight in zip(
            weights(straight.folder, 4, name).values(),
            weights(halves, 4, name).values(),
            strict=True,
        ):
            assert torch.equal(straight_weight, resumed_weight)
