"""An example: a prompt, and the data that its responses are scored with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from objdsl.frozen import dataclass

Chat = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, a text or chat messages, and the other columns of its row.

    Attributes:
        place: the location of the row, for messages: `data.jsonl:7`.
    """

    prompt: str | Chat
    columns: Mapping[str, Any]
    place: str = ""

    @property
    def name(self) -> str:
        """Its name in messages: its place, or the prompt itself if it is generated."""
        return self.place or f"prompt {self.text!r}"

    @property
    def key(self) -> str:
        """Identifies the prompt, for the states of prompts, in all rollouts and checkpoints."""
        text = json.dumps(self.prompt, sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    @property
    def text(self) -> str:
        """The prompt as a readable text."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


def columns_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """The columns of any of the examples, in order of appearance."""
    return tuple(dict.fromkeys(name for example in examples for name in example.columns))
