"""Networks of transformers and their tokenizers, from a Hugging Face id or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# In the configuration of a classifier, false if it was trained on responses without their end.
READS_END = "reads_end"


def pretrained(
    name: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model and its tokenizer. Never runs the model's code.

    Raises ConfigError where it cannot be loaded, or a weight is missing, has the wrong shape, or is
    not finite.
    """
    from transformers import AutoModelForCausalLM

    model, tokenizer = _load(AutoModelForCausalLM, name, revision)
    if tokenizer.eos_token_id is None:
        raise ConfigError([f"the tokenizer of `{name}` has no end-of-text token"])
    return model, tokenizer


def classifier(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier with one label, such as a reward model, and its tokenizer.

    Raises ConfigError where it cannot be loaded, as for `pretrained`, or has several labels.
    """
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = _load(AutoModelForSequenceClassification, name, None)
    if model.config.num_labels != 1:
        raise ConfigError(
            [f"`{name}` has {model.config.num_labels} labels: a classifier with one is a score"]
        )
    return model, tokenizer


def is_classifier(name: str) -> bool:
    """Whether a model was saved as a sequence classifier."""
    from transformers import AutoConfig

    try:
        kinds = AutoConfig.from_pretrained(name, trust_remote_code=False).architectures or []
    except Exception as error:  # as in `_load`
        raise ConfigError([f"the model `{name}` cannot be loaded: {_reason(error)}"]) from None
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)


def check_tokenizer(
    what: str, other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises ConfigError where the tokenizer of `what` disagrees with the policy's on a token."""
    index = difference(other, tokenizer)
    if index is not None:
        raise ConfigError(
            [
                f"{what}: its tokenizer differs from that of the policy; token {index} is "
                f"{tokenizer.convert_ids_to_tokens(index)!r} to the policy, and "
                f"{other.decode([index])!r} to it"
            ]
        )


def difference(other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """A token of `tokenizer` that is none, or a different one, to the other."""
    vocabulary = other.get_vocab()
    return next((k for x, k in tokenizer.get_vocab().items() if vocabulary.get(x) != k), None)


def _load(
    kind: Any, name: str, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    if not Path(name).is_dir():
        options["revision"] = revision
    try:
        # Weights of the wrong shape are reported like missing ones, and refused below.
        model, loaded = kind.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # transformers, safetensors and the hub raise their own classes
        reason = _reason(error)
        if "trust_remote_code" in str(error):
            reason = "it needs code from its repository, which is never run"
        raise ConfigError([f"the model `{name}` cannot be loaded: {reason}"]) from None
    _check_weights(name, model, loaded)
    return model, tokenizer


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
