"""Rewards of sequence classifiers, and runs whose reward functions sometimes fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from helpers import tiny_model
from helpers.random_batch import batch
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judged import Judged
from objdsl.runtime.data.prompts import PLAIN_CHAT, Prompt, character_tokenizer, encode
from objdsl.runtime.data.rewards import Judge, RewardError, Rewards
from objdsl.runtime.data.scorer import Scorer
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.critic import new_value_model
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import ConfigError, ModelSection, TaskSection

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

ALPHABET = "0123456789+=user: ant"
CPU = torch.device("cpu")


def tokenizer(chat: str | None = PLAIN_CHAT) -> Any:
    characters = character_tokenizer(ALPHABET)
    characters.chat_template = chat
    return characters


def saved(folder: Path, labels: int = 1, its_tokenizer: Any = None) -> Any:
    """A classifier of random weights, in a folder."""
    its_tokenizer = its_tokenizer or tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(
        Qwen3Config(
            vocab_size=len(its_tokenizer), hidden_size=16, intermediate_size=16,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
            pad_token_id=0, eos_token_id=1, num_labels=labels, initializer_range=0.5,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    its_tokenizer.save_pretrained(folder)
    return model.eval()


def judged(policy: Any, prompts: Sequence[Any], texts: Sequence[str]) -> Judged:
    """Responses, of which the last is truncated."""
    examples = [Example(prompt, {}, f"data.jsonl:{k + 1}") for k, prompt in enumerate(prompts)]
    tokens = [[*policy(text, add_special_tokens=False)["input_ids"], 1] for text in texts]
    tokens[-1] = tokens[-1][:-1]
    truncated = [False] * (len(texts) - 1) + [True]
    encoded = [Prompt(encode(policy, example), example) for example in examples]
    names = [example.name for example in examples]
    return Judged([x.text for x in examples], texts, truncated, {}, tokens, names, None, encoded)


def scores(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows]


def test_a_classifier_reads_the_tokens_of_the_policy(tmp_path: Path) -> None:
    model = saved(tmp_path)
    lines: list[str] = []
    rewards = Rewards({f"hf:{tmp_path}": 2}, judge=Judge(tokenizer(), CPU, lines.append))
    given = judged(tokenizer(), ["1+1=", "12+1="], ["2", "13"])
    assert given.encoded is not None
    rows = [[*p.tokens, *row] for p, row in zip(given.encoded, given.tokens, strict=True)]
    assert rewards(given).reward == pytest.approx([2 * x for x in scores(model, rows)], abs=1e-5)
    assert lines == [f"reward `hf:{tmp_path}`: reads the policy's tokens"]
    assert rewards.trial(Example("1+1=", {}), ()).reward == [0]


def test_a_classifier_with_other_tokens_reads_texts(tmp_path: Path) -> None:
    model = saved(tmp_path, its_tokenizer=tiny_model.tokenizer())
    scorer = Scorer(str(tmp_path), tokenizer(), CPU)
    assert scorer.reads == "reads texts, as its tokens are not the policy's"
    values = scorer(judged(tokenizer(), ["1+1=", "12+1="], ["2", "13"]))["reward"]
    texts = ["1+1=2<eos>", "12+1=13"]
    rows = [tiny_model.tokenizer()(text)["input_ids"] for text in texts]
    assert values == pytest.approx(scores(model, rows), abs=1e-5)


def test_a_classifier_with_a_chat_template_of_its_own(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'][:1] }}{{ m['content'] }}{% endfor %}"
    model = saved(tmp_path, its_tokenizer=tokenizer(template))
    scorer = Scorer(str(tmp_path), tokenizer(), CPU)
    assert scorer.reads.endswith("and chats by a chat template of its own")
    chat = [{"role": "user", "content": "1+1="}]
    values = scorer(judged(tokenizer(), [chat, "3+4="], ["2", "7"]))["reward"]
    rows = [tokenizer()(text)["input_ids"] for text in ("u1+1=a2", "3+4=7")]
    assert values == pytest.approx(scores(model, rows), abs=1e-5)


def test_a_critic_scores_responses_by_its_value_before_their_end(tmp_path: Path) -> None:
    task = load_task(TaskSection(), seed=0)
    model, policy = load_model(ModelSection(layers=1, width=16, heads=2), task, seed=0)
    critic = new_value_model(model)
    torch.nn.init.normal_(critic.model.score.weight)
    critic.model.save_pretrained(tmp_path)
    policy.save_pretrained(tmp_path)
    data = batch()
    values = Policy(model, critic=critic).columns(data, ("value",))["value"]
    rows = range(len(data))
    starts, ends = data.start.tolist(), (data.start + data.length).tolist()
    encoded = [Prompt(tuple(data.tokens[k, : starts[k]].tolist()), Example("", {})) for k in rows]
    tokens = [data.tokens[k, starts[k] : ends[k]].tolist() for k in rows]
    none = [""] * len(data)
    given = Judged(none, none, [False] * len(data), {}, tokens, none, None, encoded)
    expected = [float(values[k, len(tokens[k]) - 1].detach()) for k in rows]
    assert Scorer(str(tmp_path), policy, CPU)(given)["reward"] == pytest.approx(expected, abs=1e-5)


def test_what_is_no_score_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, labels=3)
    with pytest.raises(ConfigError, match="has 3 labels: a classifier with one is a score"):
        Scorer(str(tmp_path), tokenizer(), CPU)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Scorer(str(tmp_path / "nowhere"), tokenizer(), CPU)


def test_a_run_with_several_rewards_logs_each(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    task = load_task(TaskSection(digits=1), seed=0)
    its_tokenizer = character_tokenizer(task.alphabet)
    its_tokenizer.chat_template = PLAIN_CHAT
    saved(tmp_path / "judge", its_tokenizer=its_tokenizer)
    weights = {f"hf:{tmp_path / 'judge'}": 1.0, "helpers.reward_functions:even": 0.5}
    steps = numbers(run("ppo", steps=2, rewards=weights).folder)[1:]
    for step in steps:
        total = step["reward_judge"] + 0.5 * step["reward_even"]
        assert step["reward"] == pytest.approx(total)
        assert step["reward_judge"] != 0


# --- reward functions that fail for some prompts -------------------------------------------------

NINE = {"rewards": {"helpers.reward_functions:even_unless_nine": 1.0}}


def test_failed_prompts_are_dropped(run: Run, numbers: Numbers) -> None:
    out = StringIO()
    result = run(
        "rloo", steps=6, reward_failures=0.8, learner__minibatches=4,
        evaluation__samples=2, _console=Console(file=out, width=500), **NINE,
    )  # fmt: skip
    steps = numbers(result.folder)[1:]
    dropped = {step["unscored"] for step in steps}
    assert dropped <= {0, 0.25, 0.5, 0.75}
    assert len(dropped) > 1
    assert all(0 <= step["held_out"] <= 1 for step in steps if "held_out" in step)
    assert "responses are dropped: reward function `helpers.reward_functions:even_unless_nine` " \
        "failed: ValueError: no nine" in out.getvalue()  # fmt: skip
    first = next(step for step in steps if step["unscored"])
    assert first["tokens"] == pytest.approx(first["length"] * 16 * (1 - first["unscored"]))


def test_dropped_prompts_are_resampled(run: Run, numbers: Numbers) -> None:
    steps = numbers(run("rloo", reward_failures=0.9, sampler__resample=5, **NINE).folder)[1:]
    assert any(step["unscored"] for step in steps)
    assert all(step["tokens"] == pytest.approx(step["length"] * 16) for step in steps)


def test_more_failures_end_the_run_after_a_checkpoint(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"prompts have no reward, and reward_failures is 0.1"):
        run("rloo", steps=30, reward_failures=0.1, evaluation__every=0, task__held_out=0, **NINE)
    assert [*(tmp_path / "run" / "checkpoints").glob("step-*")]
