"""A model of preferences becomes the reward, and the first critic, of PPO."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from objdsl.runtime.run.run import Result

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

CHOSEN = """
objective sft_chosen
given chosen[p,i] in {0, 1}
maximize mean[p,i,t | chosen == 1] log(pi)
"""
REWARD_MODEL = """
objective reward_model from sft_chosen
score = sum[t | t == |y|] V
gap = mean[i | chosen == 1] score - mean[i | chosen == 0] score
report accuracy = mean[p] (gap > 0)
minimize critic -mean[p] logsigmoid(gap)
"""


def preferences(file: Path) -> None:
    """Pairs of responses of six letters, of which the one with more `a` is preferred."""
    rng = random.Random(0)
    rows = []
    while len(rows) < 200:
        two = ["".join(rng.choices("ab", k=6)) for _ in range(2)]
        worse, better = sorted(two, key=lambda text: text.count("a"))
        if worse.count("a") < better.count("a"):
            prompt = f"{rng.randrange(100)}:"
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    file.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.proof
def test_from_preferences_to_ppo(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    preferences(tmp_path / "pairs.jsonl")
    (tmp_path / "sft_chosen.obj").write_text(CHOSEN)
    (tmp_path / "reward_model.obj").write_text(REWARD_MODEL)
    common: dict[str, Any] = {
        "task.name": str(tmp_path / "pairs.jsonl"), "warm_start.steps": 0, "sampler.prompts": 16,
        "learner.lr": 1e-2, "evaluation.every": 0, "checkpoint.every": 0,
    }  # fmt: skip

    def trained(objective: str, name: str, steps: int, **more: Any) -> Path:
        folder = tmp_path / name
        run(objective, output=folder, steps=steps, **{**common, **more})
        return folder / "checkpoints" / f"step-{steps:06d}"

    sft = trained(str(tmp_path / "sft_chosen.obj"), "sft", 10)
    critic = {"model.name": str(sft), "learner.critic": "model"}
    alone = {**critic, "learner.critic_warm_up": 60}
    rewards = trained(str(tmp_path / "reward_model.obj"), "rewards", 60, **alone) / "critic"
    steps = numbers(tmp_path / "rewards")
    assert steps[0]["accuracy"] == 0  # every score is 0 at first
    assert steps[0]["critic_grad_norm"] > 0
    assert sum(step["accuracy"] for step in steps[-5:]) / 5 > 0.9

    trained(
        "ppo", "ppo", 15, rewards={f"hf:{rewards}": 1.0}, sampler__max_tokens=8,
        learner__critic_model=str(rewards), learner__critic_lr=1e-2,
        **critic, **{"learner.lr": 3e-2},
    )  # fmt: skip
    steps = [step for step in numbers(tmp_path / "ppo") if "reward" in step]
    assert steps[0]["value_mean"] != 0  # the critic begins as the reward model
    first, last = ([step["reward"] for step in part] for part in (steps[:3], steps[-3:]))
    assert sum(last) / 3 > sum(first) / 3 + 1
    samples = (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()
    responses = "".join(json.loads(line)["response"] for line in samples[-16:])
    assert responses.count("a") > 2 * responses.count("b")
