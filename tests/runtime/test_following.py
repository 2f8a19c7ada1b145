"""Policies that follow the trained one: copied after every few rollouts, or an average of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import objdsl
from helpers import following_ranks
from helpers.two_processes import run_two
from objdsl import driver
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import facts_of
from objdsl.audit import audit
from objdsl.audit.result import EXACT
from objdsl.errors import ObjectiveError
from objdsl.ir.differentiate import differentiate
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.ir.nodes import LogProb
from objdsl.lint.run import findings
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config
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


def test_they_are_constants_of_the_step() -> None:
    """No gradient flows through them, and no rule takes them for anything but frozen policies."""
    following = driver.compile_source(Source("x.obj", TEXT))
    frozen = driver.compile_source(Source("x.obj", re.sub(r"(policy \w+) = .*", r"\1", TEXT)))
    (leaf,) = differentiate(following.goal)
    assert leaf == LogProb("pi", trained=True)
    leaves = {x.policy: x for x in following.nodes if isinstance(x, LogProb)}
    assert not any(leaves[name].trained or leaves[name].live for name in ("anchor", "slow"))
    assert [x.message for x in findings(following)] == [x.message for x in findings(frozen)]

    lines = dict(line for part in sections(facts_of(following)) for line in part.lines)
    assert lines["anchor"] == "a copy of pi, renewed after every 2 rollouts: no gradient"
    assert lines["slow"] == "an average of pi's weights, moved after each rollout: no gradient"
    assert {"against anchor", "against slow"} <= lines.keys()
    titles = {part.title for part in sections(facts_of(frozen))}
    assert "From rollout to rollout" not in titles


def test_the_audit_takes_them_for_references() -> None:
    against = {"anchor": "forward", "slow": "reverse"}
    objective = objdsl.loads(
        "policy anchor = pi every 2 steps\npolicy slow = ema(pi, 0.9)\n"
        "maximize mean[p,i] sum[t] ((reward - mean[j != i] reward) * log(pi)"
        " - 0.1 * k3(pi, anchor) - 0.1 * k2(pi, slow))"
    )
    result = audit(objective, policies=2, drifts=())
    assert result.rows[0].residual.worst < EXACT
    assert {x.against: x.descends and x.descends.split()[0] for x in result.penalties} == against


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


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_they_are_the_same_on_all_ranks(
    parallel: str, settings: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "anchored.obj"
    path.write_text(TEXT)
    more = {"model.dtype": "float64", "learner.lr": 1e-2, "learner.parallel": parallel}
    config = settings(str(path), output=tmp_path / "run", **more)
    run_two(following_ranks.work, tmp_path, config.model_dump())

    def weights(rank: int, step: int, name: str) -> dict[str, torch.Tensor]:
        return load_file(following_ranks.path(tmp_path, rank, step, name))

    steps = range(config.steps)
    for name in ("pi", "anchor", "slow"):
        for step in steps:
            first, second = (weights(rank, step, name) for rank in (0, 1))
            assert all(torch.equal(first[key], second[key]) for key in first)
    before = weights(0, 0, "anchor")
    for key, average in before.items():
        trained = [weights(0, step, "pi")[key] for step in steps]
        for step in steps:
            average = 0.9 * average + 0.1 * trained[step]
            torch.testing.assert_close(weights(0, step, "slow")[key], average)
            copied = trained[step - 1 + step % 2] if step else before[key]
            assert torch.equal(weights(0, step, "anchor")[key], copied)
    assert any(not torch.equal(before[key], x) for key, x in weights(0, 3, "pi").items())
