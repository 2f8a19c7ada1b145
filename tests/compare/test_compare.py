"""Losses as people write them are the objectives of their papers, and every planted difference is
recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import objdsl
from objdsl.compare import compare
from objdsl.compare.report import Comparison

LOSSES = Path(__file__).parents[1] / "helpers" / "python_losses.py"

NORMALISED = "A = (reward - mean[i] reward) / (std[i] reward + 1e-6)\n"
CENTRED = "A = reward - mean[i] reward\n"
PLAIN = "objective plain\n"

OBJECTIVES: dict[str, str] = {
    "grpo": "objective x from grpo\nr = pi / old\n",
    "dr_grpo": "objective x from dr_grpo\nr = pi / old\n",
    "token_mean": f"{PLAIN}{NORMALISED}maximize mean[p,i,t] surrogate(pi / old, A, 0.8, 1.28)\n",
    "rloo": "objective x from rloo\n",
    "gspo": "objective x from gspo\n",
    "cispo": "objective x from cispo\nparam eps_high = 0.2 in (0, inf)\n",
    "ppo": f"{PLAIN}{NORMALISED}maximize mean[p,i,t] surrogate(pi / old, A, 0.8, 1.2)\n",
    "dpo": "objective x from dpo\n",
    "reinforce": (f"{PLAIN}maximize mean[p,i] sum[t] (reward * log(pi) - 0.05 * k3(pi, ref))\n"),
    "tis": f"{PLAIN}{CENTRED}w = min(old / mu, 2)\nmaximize mean[p,i] sum[t] (w * A * log(pi))\n",
}

# The loss, its planted difference, the kind that is recognised, and a part of the sentence.
PLANTED: list[tuple[str, dict[str, Any], str, str]] = [
    ("grpo", {"high": 1.28}, "clip", "A clips at 1.2, B at 1.28"),
    ("grpo", {"ddof": 0}, "ddof", "ddof"),
    ("grpo", {"eps": 1e-2}, "epsilon", "A adds 0.0001, B 0.01"),
    ("grpo", {"beta": 0.08}, "penalty", "k3 times 0.08"),
    ("grpo", {"estimator": "k2"}, "penalty", "k2 times 0.04"),
    ("dr_grpo", {"divisor": "length"}, "divisor", "the tokens of the response"),
    ("dr_grpo", {"high": 1.25}, "clip", "1.25"),
    ("token_mean", {"micro": 2}, "micro-batch", "micro-batches of 2 responses"),
    ("token_mean", {"micro": 3}, "micro-batch", "micro-batches of 3 responses"),
    ("token_mean", {"ddof": 0}, "ddof", "ddof"),
    ("token_mean", {"high": 1.2}, "clip", "1.2"),
    ("rloo", {"others": False}, "baseline", "leave-one-out"),
    ("gspo", {"high": 3e-4}, "clip", "1.0003"),
    ("cispo", {"detach": False}, "stop-gradient", "stops a gradient"),
    ("cispo", {"high": 1.3}, "clip", "1.3"),
    ("ppo", {"high": 1.28}, "clip", "1.28"),
    ("ppo", {"sign": -1.0}, "sign", "other way"),
    ("dpo", {"detach": True}, "stop-gradient", "stops a gradient"),
    ("reinforce", {"estimator": "k2"}, "penalty", "k2 times 0.05"),
    ("tis", {"by": "tokens"}, "divisor", "the tokens of the step"),
]


def against(name: str, **settings: Any) -> Comparison:
    return compare(objdsl.loads(OBJECTIVES[name]), f"{LOSSES}:{name}", settings=settings, steps=2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_is_its_objective(name: str) -> None:
    result = against(name)
    assert result.same, str(result)
    assert result.example is None and result.differences == ()


@pytest.mark.parametrize(("name", "settings", "kind", "part"), PLANTED, ids=str)
def test_a_planted_difference_is_recognised(
    name: str, settings: dict[str, Any], kind: str, part: str
) -> None:
    result = against(name, **settings)
    assert not result.same and result.example is not None
    assert [x.kind for x in result.differences] == [kind], str(result)
    assert part in result.differences[0].text, str(result)
    assert len(result.example.batch) <= 5


def test_several_differences_are_all_named() -> None:
    result = compare("grpo", "dapo", steps=2)
    assert [x.kind for x in result.differences] == ["divisor", "penalty", "clip", "epsilon"]
    assert "A clips at 1.2, B at 1.28" in result.differences[2].text
    assert "A adds 0.0001, B 1e-06" in result.differences[3].text


def test_a_baseline_is_recognised() -> None:
    result = compare("reinforce", "rloo", steps=2)
    assert [x.kind for x in result.differences] == ["baseline"], str(result)


def test_what_is_not_recognised_has_a_smallest_step() -> None:
    result = compare("dpo", "ipo", steps=2)
    assert result.differences == () and "not in a way that is recognised" in str(result)
    assert result.example is not None and len(result.example.batch) <= 2


@pytest.mark.parametrize("like", ["verl", "trl", "tinker"])
def test_losses_in_the_signatures_of_frameworks(like: str) -> None:
    text = {
        "verl": OBJECTIVES["ppo"],
        "trl": f"objective x from grpo\n{NORMALISED}",
        "tinker": f"{PLAIN}{CENTRED}maximize mean[p,i] sum[t] (pi / mu * A)\n",
    }[like]
    # TRL's mean over responses is that over prompts where groups are equal.
    group = 3 if like == "trl" else None
    loss = f"{LOSSES}:{like}_style"
    result = compare(objdsl.loads(text), loss, like=like, group=group, steps=2)
    assert result.same, str(result)


def test_verls_own_loss() -> None:
    pytest.importorskip("verl.trainer.ppo.core_algos")
    loss = "verl.trainer.ppo.core_algos:compute_policy_loss_vanilla"
    same = compare("frameworks/verl_grpo", loss, like="verl", steps=2)
    assert same.same, str(same)
    wide = {"clip_ratio_high": 0.28}
    result = compare("frameworks/verl_grpo", loss, like="verl", steps=2, settings=wide)
    assert [x.kind for x in result.differences] == ["clip"]
    assert "A clips at 1.2, B at 1.28" in result.differences[0].text
