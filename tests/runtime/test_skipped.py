"""Steps that are not finite: skipped, named, counted, and too many of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from helpers import skipping_ranks
from helpers.two_processes import run_two
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.learning.learner import Learned, Learner
from objdsl.runtime.learning.optimizer import TrainingError
from objdsl.runtime.processes.ranks import Ranks
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config
from objdsl.runtime.storage.checkpoint import find

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

REMEMBERING = """
objective remembering
state base = 0 next 0.9 * base + 0.1 * mean[p,i] reward
report odds = mean[p,i] (reward / mean[i] reward)
maximize mean[p,i] ((reward - base) * sum[t] log(pi)) - 0.1 * mean[p,i,t] k3(pi, ref)
"""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`broken("column", {1})`: something is not finite in these rollouts, counted from 0."""
    now = -1
    learn = Learner.learn

    def learning(self: Learner, batch: Batch, step: int, rows: Any = None) -> Learned:
        nonlocal now
        now = step
        return learn(self, batch, step, rows)

    monkeypatch.setattr(Learner, "learn", learning)

    def broken_in(kind: str, rollouts: set[int]) -> None:
        extend, columns, states, add = (
            Batch.with_columns, Policy.columns, Policy.states, Ranks.add_gradients,
        )  # fmt: skip

        def column(self: Batch, values: Mapping[str, torch.Tensor]) -> Batch:
            if now in rollouts and "log_ref" in values:
                values["log_ref"][2, 0] = torch.nan
            return extend(self, values)

        def trained(self: Policy, batch: Batch, wanted: Any) -> dict[str, torch.Tensor]:
            values = dict(columns(self, batch, wanted))
            if now in rollouts and torch.is_grad_enabled():
                values["log_pi"] = values["log_pi"] * torch.nan
            return values

        def hidden(self: Policy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            inner, tokens = states(self, batch)
            broken_now = now in rollouts and torch.is_grad_enabled()
            return inner * torch.nan if broken_now else inner, tokens

        def gradient(self: Ranks, parameters: Any) -> None:
            many = [*parameters]
            if now in rollouts:
                many[3].grad[0] = torch.inf
            add(self, many)

        places = {
            "column": (Batch, "with_columns", column),
            "policy": (Policy, "columns", trained),
            "states": (Policy, "states", hidden),
            "gradient": (Ranks, "add_gradients", gradient),
        }
        where, name, function = places[kind]
        monkeypatch.setattr(where, name, function)

    return broken_in


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The weights and the optimizer's state after each rollout."""
    kept: list[Mapping[str, Any]] = []
    learn = Learner.learn

    def learning(self: Learner, batch: Batch, step: int, rows: Any = None) -> Learned:
        learned = learn(self, batch, step, rows)
        weights = [p.detach().clone() for p in self.policy.parameters()]
        kept.append({"weights": weights, "adamw": copy.deepcopy(self.optimizer.state()["state"])})
        return learned

    monkeypatch.setattr(Learner, "learn", learning)
    return kept


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("column", {}, "the column `log_ref` of the policy `ref` is nan at token 0 of response 2"),
        ("policy", {"learner.micro_batch": 5}, "the column `log_pi` of the policy `pi` is nan"),
        ("policy", {}, "the column `log_pi` of the policy `pi` is nan"),
        ("states", {"learner.head": "fused"}, "the log-probabilities of the policy `pi` are nan"),
        ("gradient", {}, "the gradient of remembering by model.layers.0.self_attn.v_proj"),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(
    run: Run, numbers: Numbers, tmp_path: Path, broken: Callable[..., None],
    moments: list[Mapping[str, Any]], kind: str, more: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    text = tmp_path / "remembering.obj"
    text.write_text(REMEMBERING)
    broken(kind, {1})
    out = StringIO()
    result = run(str(text), _console=Console(file=out, width=500), **more)
    assert f"step 2: an optimizer step is skipped: {reason}" in out.getvalue()
    _, first, second, third, fourth = numbers(result.folder)
    assert [s["skipped"] for s in (first, second, third, fourth)] == [0, 1, 0, 0]
    assert second["reward"] >= 0 and "grad_norm" not in second
    assert second["base"] == first["base"] != third["base"]
    before, after, later = (kept["weights"] for kept in moments[:3])
    assert all(bool((x == y).all()) for x, y in zip(before, after, strict=True))
    assert not all(bool((x == y).all()) for x, y in zip(after, later, strict=True))
    before, after = (kept["adamw"] for kept in moments[:2])
    for k, slot in before.items():
        assert all(bool((x == after[k][name]).all()) for name, x in slot.items())


def test_one_of_several_steps_is_skipped(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    """A report is named where the value is not finite; the other minibatches are learned from."""
    text = tmp_path / "odd.obj"
    text.write_text(
        "objective odd\nreport odds = 1 / max[p,i] reward\n"
        "maximize mean[p,i] (reward * sum[t] log(pi)) / max[p,i] reward\n"
    )
    out = StringIO()
    options = {"rewards": {"exact": 1.0}, "learner.minibatches": 4, "learner.max_skipped": 100}
    result = run(str(text), _console=Console(file=out, width=500), **options)
    steps = numbers(result.folder)[1:]
    assert sum(step["skipped"] for step in steps) > 0
    assert "the value of odd is nan, and so is its report `odds`" in out.getvalue()
    for step in steps:
        assert ("grad_norm" in step) == (step["skipped"] < 4)


def test_too_many_steps_end_the_run_and_a_resumed_one_counts_on(
    run: Run, tmp_path: Path, broken: Callable[..., None]
) -> None:
    broken("gradient", {0, 3})
    options = {"learner.max_skipped": 1}
    run("grpo", steps=2, **options)
    saved = find(tmp_path / "run" / "checkpoints").saved
    assert saved is not None and saved.progress.skipped == (0,)
    with pytest.raises(TrainingError, match=r"not finite; 2 optimizer steps within 100 rollouts"):
        run("grpo", steps=6, _resume="auto", **options)
    saved = find(tmp_path / "run" / "checkpoints").saved
    assert saved is not None and saved.progress.step == 3


@pytest.mark.slow
def test_all_ranks_skip_together(
    settings: Callable[..., Config], numbers: Numbers, tmp_path: Path
) -> None:
    jobs = []
    for parallel in ("ddp", "fsdp"):
        for kind in ("policy", "gradient"):
            config = settings(
                "dr_grpo", output=tmp_path / f"{parallel}-{kind}",
                **{"learner.parallel": parallel, "learner.micro_batch": 3},
            )  # fmt: skip
            jobs.append((kind, config.model_dump()))
    run_two(skipping_ranks.work, tmp_path, jobs)
    for _, values in jobs:
        folder = Path(values["output"])
        assert [step["skipped"] for step in numbers(folder)[1:]] == [0, 1, 0, 0]
    reasons = json.loads((tmp_path / "reasons-1.json").read_text())
    assert reasons == json.loads((tmp_path / "reasons-0.json").read_text())
    assert [reason.partition(" is ")[0] for reason in reasons[::2]] == [
        "the column `log_pi` of the policy `pi`"
    ] * 2
    assert all("the gradient of dr_grpo by " in reason for reason in reasons[1::2])
