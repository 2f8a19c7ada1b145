"""A language model of a few thousand weights, its tokenizer, and trainers of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import objdsl

TOKENS = ["<pad>", "<eos>", "<unk>", *"0123456789+="]
PROMPTS = ["1+1=", "2+3=", "4+4=", "0+7="]
SIZE = 4  # of a group


def model() -> Any:
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(3)
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(TOKENS), pad_token_id=0, eos_token_id=1, **size, **heads)
    )


def tokenizer() -> Any:
    ids = {token: i for i, token in enumerate(TOKENS)}
    characters = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=characters, **special)


def score(completions: list[str], **_: Any) -> list[float]:
    """Depends on the tokens alone, and differs within most groups."""
    return [("3" in text) + 0.25 * text.count("1") for text in completions]


def right_or_wrong(completions: list[str], **_: Any) -> list[float]:
    """The same for objectives whose rewards are 0 or 1."""
    return [float(points > 0.5) for points in score(completions)]


def score_for(objective: objdsl.Objective) -> Callable[..., list[float]]:
    return right_or_wrong if "reward" in objective.formula.domains else score


def settings(folder: Path, **options: Any) -> dict[str, Any]:
    """Settings of a `GRPOConfig`: steps of 8 responses, which is two groups."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_generations": SIZE,
        "max_completion_length": 6,
        "learning_rate": 0.01,
        "logging_steps": 1,
    }
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        **defaults,
        **options,
    }


def data(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, **columns})


def rows(prompts: int = 2) -> list[dict[str, Any]]:
    """The output of TRL's sampler for some prompts, each of which is repeated for its responses."""
    return [{"prompt": prompt} for prompt in PROMPTS[:prompts] for _ in range(SIZE)]


def prepared_steps(trainer: Any) -> list[objdsl.Step]:
    """The optimizer steps that a trainer prepares from now on."""
    steps: list[objdsl.Step] = []
    prepare = trainer.objective.prepare

    def recorded(**columns: Any) -> objdsl.Step:
        steps.append(prepare(**columns))
        return steps[-1]

    trainer.objective.prepare = recorded
    return steps


def move(weights: Any, seed: int = 7) -> None:
    """Changes the model as a few steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
