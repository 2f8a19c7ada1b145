"""Models and tokenizers, loaded from a name or a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from objdsl.runtime.data.pretrained import pretrained
from objdsl.runtime.data.prompts import PLAIN_CHAT, character_tokenizer
from objdsl.runtime.data.tasks import Task
from objdsl.runtime.settings.config import TINY, ConfigError, ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError([f"model.device is {name!r}: not a device"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"model.device is {name!r}, but torch sees no GPU"])
    return device


def quiet_transformers() -> None:
    """Disables the progress bars of loading and saving, which would interrupt the run's report."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_model(
    config: ModelSection, task: Task, seed: int, device: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer that the settings name. `seed` determines the weights of `tiny`.

    Args:
        device: overrides the device of the settings.
    """
    device = pick_device(config.device) if device is None else device
    if config.name == TINY:
        tokenizer = character_tokenizer(task.alphabet)
        tokenizer.chat_template = PLAIN_CHAT
        model = _tiny(config, len(tokenizer), seed)
    else:
        model, tokenizer = pretrained(config.name, config.revision)
    return model.to(device=device, dtype=DTYPES[config.dtype]).eval(), tokenizer


def _tiny(config: ModelSection, vocabulary: int, seed: int) -> PreTrainedModel:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.width // config.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(shape)


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a response: the tokenizer's EOS, and those of the generation config.

    A chat model lists the end of a turn there, which differs from the end of a text.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    named = [named] if isinstance(named, int) else named or []
    return tuple(dict.fromkeys(map(int, [tokenizer.eos_token_id, *named])))


def context_of(model: PreTrainedModel) -> int | None:
    """The context length of the model, in tokens; None where it is not declared."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def recompute_layers(model: PreTrainedModel) -> None:
    """Makes every layer recompute its activations in the backward pass (gradient checkpointing).

    transformers does so in training mode only, where dropout is active too: the gradient would be
    that of a different policy than the measured one.

    Raises ConfigError for a model whose layers do not support it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        kind = type(model).__name__
        raise ConfigError([f"learner.gradient_checkpointing: {kind} cannot do it layer by layer"])
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    return checkpoint(forward, *args, use_reentrant=False, **options)
