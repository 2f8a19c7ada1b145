"""Responses of a dataset of preferences: nothing is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from objdsl.frozen import dataclass
from objdsl.objective import Objective
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judge import shown
from objdsl.runtime.data.prompts import Prompt, chosen_at
from objdsl.runtime.engines.batch import collate
from objdsl.runtime.engines.sampler import Response
from objdsl.runtime.learning.rollout import Place, Rollout, number
from objdsl.runtime.report.metrics import Clock
from objdsl.runtime.settings.config import ConfigError
from objdsl.step.states import States

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Columns that describe the responses of a preference pair.
OF_PREFERENCES = ("chosen", "desirable", "mismatched")


def has_preferences(examples: Sequence[Example], columns: Mapping[str, str]) -> bool:
    """Whether the task comes with pairs of a preferred and a dispreferred response."""
    return any(all(name in example.columns for name in columns.values()) for example in examples)


def preferred(example: Example, column: str) -> str:
    """The text of a response of the task: a text, or one message of an assistant.

    Raises ConfigError for anything else.
    """
    match example.columns.get(column):
        case str(text) | [{"role": "assistant", "content": str(text)}]:
            return text
        case other:
            raise ConfigError(
                [f"{example.name}: `{column}` is {shown(other)}: the text of a response is needed"]
            )


@dataclass(frozen=True)
class Preferences:
    """The preferred and the dispreferred response to each prompt.

    They have the columns `chosen` and `desirable`, 1 and 0. For an objective that reads
    `mismatched`, each prompt also gets the two responses to a different prompt of the step.

    Attributes:
        names: the task's columns with the texts of `chosen` and `rejected` responses.
        given: columns of the task that the objective reads.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    place: Place
    names: Mapping[str, str]
    objective: Objective
    given: tuple[str, ...]
    mismatched: bool
    count: int
    seed: int

    @property
    def rows(self) -> int:
        """Responses per prompt."""
        return 4 if self.mismatched else 2

    def roll(self, step: int, position: int, clock: Clock, states: States) -> Rollout:
        with clock.phase("collate"):
            indices = chosen_at(position, self.count, len(self.prompts), self.seed)
            pairs = [(k, k) for k in indices]
            if self.mismatched:
                pairs = [both for k in indices for both in ((k, k), (k, self._other(k, indices)))]
            prompts = [self.prompts[k] for k, _ in pairs for _ in range(2)]
            responses = [
                self._response(preferred(self.prompts[k].example, self.names[kind]))
                for _, k in pairs
                for kind in ("chosen", "rejected")
            ]
            is_chosen = [1.0, 0.0] * len(pairs)
            columns: dict[str, Any] = {
                "chosen": is_chosen,
                "desirable": is_chosen,
                "mismatched": [float(k != other) for k, other in pairs for _ in range(2)],
            }
            for name in self.given:
                columns[name] = [number(name, prompt.example) for prompt in prompts]
            keys = tuple(prompt.example.key for prompt in prompts)
            columns |= self.objective.recall(states, keys, **columns)
            batch = collate(
                [prompt.tokens for prompt in prompts],
                [k for k in range(len(indices)) for _ in range(self.rows)],
                responses,
                columns,
                vocabulary=self.place.vocabulary,
                device=self.place.device,
                dtype=self.place.dtype,
            )
        columns_of_step = {name: x for name, x in batch.columns.items() if name != "log_mu"}
        lengths = [len(response.tokens) for response in responses]
        metrics = {"length": sum(lengths) / len(lengths), "tokens": sum(lengths)}
        batch = replace(batch, columns=columns_of_step)
        return Rollout(batch, [], metrics, position + self.count, keys)

    def _other(self, index: int, indices: Sequence[int]) -> int:
        """The next different prompt of the step, whose responses do not answer this one."""
        at = indices.index(index)
        return next((k for k in (*indices[at + 1 :], *indices) if k != index), index)

    def _response(self, text: str) -> Response:
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = (*tokens, int(self.tokenizer.eos_token_id))
        return Response(tokens, (0.0,) * len(tokens), truncated=False)
