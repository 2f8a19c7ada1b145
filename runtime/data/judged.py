"""Responses to be scored, and what reward functions are given of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from objdsl.frozen import dataclass
from objdsl.runtime.data.judge import OF_THE_RUN, PIECES, TOKENS, shown
from objdsl.runtime.data.prompts import Prompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judged:
    """Responses to be scored; every field has an entry for each of them.

    Attributes:
        columns: the columns of the task.
        tokens: the tokens of each completion, for columns of tokens.
        pieces: their texts, where a function reads them.
        places: the location of the row of each prompt, for messages.
        encoded: the prompts as chats and tokens, for classifiers.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    truncated: Sequence[bool]
    columns: Mapping[str, Sequence[Any]]
    tokens: Sequence[Sequence[int]]
    places: Sequence[str]
    pieces: Sequence[Sequence[str]] | None = None
    encoded: Sequence[Prompt] | None = None

    def __getitem__(self, rows: Sequence[int]) -> Judged:
        """Some responses."""

        def some(values: Sequence[T]) -> list[T]:
            return [values[k] for k in rows]

        return Judged(
            some(self.prompts),
            some(self.completions),
            some(self.truncated),
            {name: some(values) for name, values in self.columns.items()},
            some(self.tokens),
            some(self.places),
            None if self.pieces is None else some(self.pieces),
            None if self.encoded is None else some(self.encoded),
        )

    @property
    def by_prompt(self) -> list[range]:
        """The adjacent responses to the same row."""
        rows = range(len(self.places))
        ends = [k for k in rows if k + 1 == len(rows) or self.places[k + 1] != self.places[k]]
        return [range(a + 1, b + 1) for a, b in pairwise([-1, *ends])]

    def arguments(self) -> dict[str, Any]:
        """The keywords of a reward function. Those of the run override columns of the task."""
        of_the_run = (self.prompts, self.completions, self.truncated)
        arguments = {**self.columns, **dict(zip(OF_THE_RUN, of_the_run, strict=True))}
        arguments[TOKENS] = [list(row) for row in self.tokens]
        if self.pieces is not None:
            arguments[PIECES] = [list(row) for row in self.pieces]
        return arguments

    def named(self, response: int | None) -> str:
        """The rows that a message is about, in parentheses."""
        if response is not None:
            return f" ({self.places[response]}, completion {shown(self.completions[response])})"
        rows = list(dict.fromkeys(self.places))
        more = f" and {len(rows) - 3} others" if len(rows) > 3 else ""
        return f" (on responses to {', '.join(rows[:3])}{more})"
