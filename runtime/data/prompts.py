"""Prompts as tokens, and the order in which a run takes them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerBase:
    """A tokenizer with a token per character of `alphabet`, besides `<pad>` (0) and `<eos>` (1)."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: k for k, token in enumerate(["<pad>", "<eos>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


# A chat template that writes what `Example.text` shows, for models without one.
PLAIN_CHAT = (
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[int, ...]:
    """The tokens of a prompt, including chat template and beginning-of-text if any.

    Args:
        options: variables of the chat template.
    """
    if isinstance(example.prompt, str):
        tokens = tuple(tokenizer(example.prompt)["input_ids"])
    elif tokenizer.chat_template is None:
        raise ConfigError(["the prompts are chats, but the model's tokenizer has no chat template"])
    else:
        try:
            encoded = tokenizer.apply_chat_template(
                example.prompt, add_generation_prompt=True, return_dict=True, **options
            )
        except Exception as error:  # each template raises its own errors
            raise ConfigError(
                [f"{example.name}: the chat template of the model refuses it: {error}"]
            ) from None
        tokens = tuple(encoded["input_ids"])
    if not tokens:
        raise ConfigError(
            [f"{example.name}: the prompt is empty: it has no token to continue from"]
        )
    return tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example with its prompt as tokens."""

    tokens: tuple[int, ...]
    example: Example


def encode_all(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    limit: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> list[Prompt]:
    """The prompts of at most `limit` tokens; `options` are variables of the chat template."""
    prompts = [Prompt(encode(tokenizer, example, options), example) for example in examples]
    return [prompt for prompt in prompts if len(prompt.tokens) <= limit]


def chosen_at(position: int, count: int, size: int, seed: int) -> list[int]:
    """The indices of `count` of `size` examples, from `position` on in an endless shuffled order.

    Every epoch is a new permutation. The position is the only state that a resumed run needs.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        epoch, start = divmod(position + len(chosen), size)
        chosen += _order(size, seed, epoch)[start : start + count - len(chosen)]
    return chosen


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)
