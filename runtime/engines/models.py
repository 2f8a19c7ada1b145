"""Models and tokenizers, loaded from a name or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

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


def pretrained(
    name: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer, from a Hugging Face id or a folder. Never runs the model's code.

    Raises ConfigError where it cannot be loaded, or a weight is missing, has the wrong shape, or is
    not finite.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    if not Path(name).is_dir():
        options["revision"] = revision
    try:
        # Weights of the wrong shape are reported like missing ones, and refused below.
        model, loaded = AutoModelForCausalLM.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # transformers, safetensors and the hub raise their own classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "trust_remote_code" in str(error):
            reason = "it needs code from its repository, which is never run"
        raise ConfigError([f"the model `{name}` cannot be loaded: {reason}"]) from None
    _check_weights(name, model, loaded)
    if tokenizer.eos_token_id is None:
        raise ConfigError([f"the tokenizer of `{name}` has no end-of-text token"])
    return model, tokenizer


def _check_weights(name: str, model: PreTrainedModel, loaded: Mapping[str, Any]) -> None:
    """Raises ConfigError unless every weight was loaded, and is finite."""
    problems = [
        f"`{key}` is {list(there)}, and {list(here)} by its configuration"
        for key, there, here in sorted(loaded["mismatched_keys"])
    ]
    missing = sorted(loaded["missing_keys"])
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        problems.append(f"`{missing[0]}`{others} is missing")
    if problems:
        raise ConfigError([f"the weights of `{name}` are incomplete: {'; '.join(problems)}"])
    for key, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError(
                [f"the weights of `{name}` are not numbers: `{key}` has NaN or infinite entries"]
            )


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
