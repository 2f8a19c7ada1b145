"""Critics: a layer on the states of the policy, or a network of their own."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GraniteConfig, GraniteForCausalLM

import objdsl
from helpers.random_batch import batch
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.critic import ValueModel, new_value_model
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.learning.learner import Learner
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import (
    ConfigError,
    LearnerSection,
    ModelSection,
    TaskSection,
)
from objdsl.runtime.settings.config_io import read_config
from objdsl.runtime.storage.sealed_folder import CheckpointError

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

ALONE = "objective lone\nA = reward - mean[i] reward\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
WITH_CRITIC = f"{ALONE}minimize critic mean[p,i,t] (0.5 * (V - reward)^2)\n"
KINDS = ("head", "model")


def policy() -> Policy:
    section = ModelSection(layers=2, width=16, heads=2)
    model, _ = load_model(section, load_task(TaskSection(), seed=0), seed=0)
    return Policy(model)


def learner(text: str, learns: Policy, **settings: Any) -> Learner:
    section = LearnerSection.model_validate({"lr": 1e-2, "warmup": 0, **settings})
    return Learner(learns, objdsl.loads(text), section, steps=100, frozen={})


def weights(learns: Policy) -> list[torch.Tensor]:
    return [x.detach().clone() for x in learns.model.parameters()]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(some, others, strict=True))


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["logits", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_that_no_advantage_reads_leaves_the_policy_bitwise(kind: str, head: str) -> None:
    results = []
    for text in (ALONE, WITH_CRITIC):
        learns = policy()
        given = {"critic": kind} if text == WITH_CRITIC else {}
        learning = learner(text, learns, head=head, micro_batch=5, **given)
        for step in range(3):
            learning.learn(batch(), step)
        results.append(weights(learns))
    assert equal(*results)
    assert not equal(results[0], weights(policy()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_the_critic_falls(kind: str) -> None:
    learning = learner(WITH_CRITIC, policy(), critic=kind, critic_lr=1e-2)
    errors = [learning.learn(batch(), step).reports["critic_loss"] for step in range(30)]
    rewards = batch().columns["reward"]
    assert errors[0] == pytest.approx(
        float(0.5 * (rewards[:, None] ** 2).expand_as(batch().mask)[batch().mask].mean())
    )  # every value is 0 at first
    # A layer on states of random weights knows little of the tokens before them.
    assert errors[-1] < (0.6 if kind == "head" else 0.2) * errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_critic_warms_up(kind: str) -> None:
    text = f"learn c = 0.5\n{WITH_CRITIC}minimize learn (c^2)\n"
    learns = policy()
    learning = learner(text, learns, critic=kind, critic_warm_up=2, minibatches=2)
    assert learns.critic is not None
    before, critic = weights(learns), copy.deepcopy(learns.critic.state_dict())
    for step in range(2):
        learned = learning.learn(batch(), step)
        assert learned.numbers == {"c": 0.5}
        assert learned.metrics["grad_norm"] > 0
        assert learned.metrics["critic_grad_norm"] > 0
        assert equal(weights(learns), before)
    assert any(not torch.equal(x, critic[k]) for k, x in learns.critic.state_dict().items())
    learning.learn(batch(), 2)
    assert not equal(weights(learns), before)


def test_settings_without_a_critic_are_refused() -> None:
    for given in ({"critic_warm_up": 1}, {"critic": "model", "critic_model": "x"}):
        with pytest.raises(ConfigError, match=f"learner.{[*given][-1]} is set, but lone has no"):
            learner(ALONE, policy(), **given)
    with pytest.raises(ConfigError, match=r"critic_model is 'x', but learner.critic is `head`"):
        read_config(None, (), {"learner.critic_model": "x"})


# --- values --------------------------------------------------------------------------------------


def test_values_are_the_scores_of_a_classifier() -> None:
    """The value of a state is the score of the tokens before it, however rows are laid out."""
    learns = policy()
    critic = new_value_model(learns.model)
    assert equal([*critic.model.base_model.parameters()], [*learns.model.base_model.parameters()])
    torch.nn.init.normal_(critic.model.score.weight)
    learns.critic = critic
    data = batch(masked=True)
    values = learns.columns(data, ("value", "log_pi"))["value"]
    critic.model.set_attn_implementation("eager")
    unshared = learns.columns(data, ("value",))["value"]
    torch.testing.assert_close(values, unshared)
    for row in range(len(data)):
        for k in range(int(data.mask[row].sum())):
            end = int(data.start[row] + data.place[row, k])
            with torch.no_grad():
                score = critic.model(input_ids=data.tokens[row : row + 1, :end]).logits
            torch.testing.assert_close(values[row, k], score[0, 0])
    assert not values[~data.mask].any()


def test_a_model_without_a_classifier_is_no_critic() -> None:
    shape = GraniteConfig(
        vocab_size=15, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no sequence classifier of GraniteForCausalLM"):
        new_value_model(GraniteForCausalLM(shape))
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM cannot score every token"):
        ValueModel(policy().model)


# --- runs ----------------------------------------------------------------------------------------

OWN = {"learner.critic": "model", "learner.critic_warm_up": 1}


def test_a_run_with_a_critic_of_its_own_resumes_to_the_same_numbers(
    run: Run, numbers: Numbers, tmp_path: Path
) -> None:
    more = {**OWN, "learner.minibatches": 2, "learner.epochs": 2}
    straight = run("adaptive_kl", output=tmp_path / "straight", **more).folder
    halves = tmp_path / "halves"
    shutil.copytree(straight, halves)
    shutil.rmtree(halves / "checkpoints" / "step-000004")
    run("adaptive_kl", output=halves, _resume=str(halves), **more)
    assert numbers(halves) == numbers(straight)
    for file in ("model.safetensors", "critic/model.safetensors"):
        both = [load_file(x / "checkpoints" / "step-000004" / file) for x in (straight, halves)]
        assert both[0].keys() == both[1].keys()
        assert equal(*([x[k] for k in both[0]] for x in both))
    with pytest.raises(CheckpointError, match=r"the critic of .* is a network of its own"):
        run("adaptive_kl", output=halves, _resume=str(halves), steps=5)

    # The critic is a classifier, and another one starts from it.
    saved = straight / "checkpoints" / "step-000004" / "critic"
    classifier = AutoModelForSequenceClassification.from_pretrained(saved)
    assert float(classifier.score.weight.detach().abs().max()) > 1e-4
    again = run(
        "ppo", output=tmp_path / "again", steps=1, warm_start__steps=0,
        learner__critic_lr=1e-9, learner__critic_model=str(saved), **OWN,
    ).folder / "checkpoints" / "step-000001" / "critic"  # fmt: skip
    begun = AutoModelForSequenceClassification.from_pretrained(again).state_dict()
    for name, x in classifier.state_dict().items():
        torch.testing.assert_close(begun[name], x, atol=1e-6, rtol=0)


def test_a_critic_starts_from_the_policy_after_its_warm_start(run: Run, tmp_path: Path) -> None:
    more = {**OWN, "learner.critic_lr": 1e-9, "learner.critic_warm_up": 2}
    folder = run("ppo", steps=1, warm_start__steps=3, **more).folder / "checkpoints" / "step-000001"
    model = load_file(folder / "model.safetensors")
    critic = load_file(folder / "critic" / "model.safetensors")
    shared = critic.keys() - {"score.weight"}
    assert len(shared) > 5
    for name in shared:
        torch.testing.assert_close(critic[name], model[name], atol=1e-6, rtol=0)


def test_a_head_cannot_be_resumed_as_a_network(run: Run) -> None:
    run("ppo", steps=2)
    with pytest.raises(CheckpointError, match="has no critic that is a network of its own"):
        run("ppo", steps=4, _resume="auto", learner__critic="model")


def test_ppo_learns_with_a_critic_of_its_own(run: Run, numbers: Numbers) -> None:
    result = run(
        "ppo", steps=25, sampler__prompts=8, learner__critic="model",
        learner__lr=3e-2, learner__critic_lr=3e-3, learner__critic_warm_up=3, evaluation__every=0,
        checkpoint__every=0,
    )  # fmt: skip
    rewards = [step["reward"] for step in numbers(result.folder)[1:]]
    assert sum(rewards[:5]) / 5 < 0.5
    assert sum(rewards[-5:]) / 5 > 0.8
