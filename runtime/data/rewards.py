"""Reward functions, by name or import path, and the scores that they return.

A reward function takes keywords and returns a number per response, or several columns of which
`reward` is one:

    def short_and_exact(*, completions, answer, **_):
        right = [float(c == a) for c, a in zip(completions, answer)]
        return {"reward": right, "characters": [len(c) for c in completions]}

Its arguments are `prompts`, `completions`, `truncated`, and every other column of the task, each a
list with an entry per response; `**_` takes those that the function ignores. Prompts and
completions are texts, also those of a chat. A function with a parameter `completion_ids` also gets
the tokens of each response, and one with `completion_tokens` the text of each token.

Further columns that it returns are logged, and an objective may read them with `given`: a number
per response, or a list per response with a number per token. The token column `loss_mask` says
which tokens are learned from; see `learning.supplied`.

Functions with an import path run in a separate process; see `judge`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from objdsl.diagnostic import near
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judge import (
    OF_THE_RUN,
    PIECES,
    TOKENS,
    RefusalError,
    check_call,
    scored,
    shown,
    takes,
)
from objdsl.runtime.data.reward_process import GoneError, RewardProcess
from objdsl.runtime.settings.config import ConfigError

RewardFunction = Callable[..., Sequence[float] | Mapping[str, Sequence[float]]]


class RewardError(ObjdslError, ValueError):
    """A reward function failed, or did not return a number per response."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The weighted sum of the rewards of each response, and the other columns of the functions.

    A column has a number for each response, or a list of numbers, one for each of its tokens.

    Attributes:
        functions: the reward function that returned each column.
    """

    reward: list[float]
    columns: dict[str, list[Any]]
    functions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """Responses to be scored; every field has an entry for each of them.

    Attributes:
        columns: the columns of the task.
        tokens: the tokens of each completion, for columns of tokens.
        pieces: their texts, where a function reads them.
        places: the location of the row of each prompt, for messages.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    truncated: Sequence[bool]
    columns: Mapping[str, Sequence[Any]]
    tokens: Sequence[Sequence[int]]
    places: Sequence[str]
    pieces: Sequence[Sequence[str]] | None = None

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


def exact(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the response equals the answer, ignoring surrounding whitespace."""
    return [
        float(completion.strip() == str(right).strip())
        for completion, right in zip(completions, answer, strict=True)
    ]


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def number_in(text: str) -> Decimal | None:
    """The last number of a text, if it has one."""
    numbers = _NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


def last_number(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the last number of the response equals the last number of the answer (GSM8K)."""
    pairs = [
        (number_in(completion), number_in(str(right)))
        for completion, right in zip(completions, answer, strict=True)
    ]
    return [float(given is not None and given == right) for given, right in pairs]


def digits(
    *, completions: Sequence[str], completion_tokens: Sequence[Sequence[str]],
    answer: Sequence[Any], **_: Any,
) -> dict[str, list[Any]]:  # fmt: skip
    """A process reward: each token earns its share of the characters that are at their place.

    `progress`, a number per token, adds up to 1 for a response that equals the answer: its end
    counts as a character, and is earned by the last token.
    """
    rewards, progress = exact(completions=completions, answer=answer), []
    rows = zip(completions, completion_tokens, answer, strict=True)
    for completion, tokens, right in rows:
        text, place, earned = str(right), 0, []
        for token in tokens:
            wanted = text[place : place + len(token)]
            earned.append(sum(a == b for a, b in zip(token, wanted, strict=False)))
            place += len(token)
        earned[-1] += completion == text
        progress.append([hits / (len(text) + 1) for hits in earned])
    return {"reward": rewards, "progress": progress}


def turns(
    *, completion_tokens: Sequence[Sequence[str]], answer: Sequence[Any], **_: Any
) -> dict[str, list[Any]]:
    """Scores a response of two turns, `15;no;125`: what the policy writes before the first `;`, and
    after the second. Between them stands text of the environment, which is not learned from.

    Columns: `first` and `second`, whether each turn is right; `turn`, the turn of each token;
    `loss_mask`, 0 for text of the environment. The reward is `second`.
    """
    firsts, seconds, numbers, masks = [], [], [], []
    for tokens, right in zip(completion_tokens, answer, strict=True):
        parts, passed, turn, mask = ["", "", ""], 0, [], []
        for token in tokens:
            turn.append(1.0 if passed < 2 else 2.0)
            mask.append(float(passed != 1))
            parts[passed] += token
            passed = min(2, passed + token.count(";"))
        given = [parts[0].removesuffix(";"), parts[2]]
        first, second = (float(text == str(right)) for text in given)
        firsts.append(first)
        seconds.append(second)
        numbers.append(turn)
        masks.append(mask)
    return {
        "reward": seconds, "first": firsts, "second": seconds, "turn": numbers, "loss_mask": masks,
    }  # fmt: skip


LAST_NUMBER = "last_number"
NAMED: dict[str, RewardFunction] = {
    "exact": exact,
    LAST_NUMBER: last_number,
    "digits": digits,
    "turns": turns,
}


def check_name(name: str) -> None:
    """Raises ConfigError for a name that is neither built in nor an import path."""
    if ":" in name or name in NAMED:
        return
    guess = near(name, NAMED)
    hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(NAMED)}"
    raise ConfigError([f"rewards: no reward `{name}`; {hint} (or `package.module:function`)"])


class Rewards:
    """Several reward functions, weighted and summed.

    Args:
        weights: the weight of each function, by its name or import path.
        deadline: seconds that a function may take for the responses of a step.

    Attributes:
        names: of the functions.
        reads_pieces: whether a function reads the texts of tokens.

    Raises ConfigError for a function that does not exist.
    """

    def __init__(self, weights: Mapping[str, float], deadline: float = 300.0) -> None:
        if not weights:
            raise ConfigError(["rewards: at least one function is needed"])
        for name in weights:
            check_name(name)
        self._weights = dict(weights)
        self.names = tuple(weights)
        self.process = RewardProcess(deadline)
        self.reads_pieces = any(takes(NAMED[name], PIECES) for name in weights if name in NAMED)
        try:
            for name in weights:
                if name not in NAMED:
                    self.reads_pieces |= self._call("load", name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process of the functions; may be called twice."""
        self.process.close()

    def _call(self, call: str, name: str, *arguments: Any) -> Any:
        try:
            return self.process.call(call, name, *arguments)
        except (RefusalError, GoneError) as error:
            raise ConfigError([f"rewards: `{name}` {error}"]) from None

    def trial(self, example: Example, columns: Iterable[str]) -> Scores:
        """The scores of one response that is empty but for its EOS, to see which columns there are.

        Args:
            columns: the names of the task's columns.
        """
        values = {name: [example.columns.get(name)] for name in columns}
        pieces = [("",)] if self.reads_pieces else None
        judged = Judged([example.text], [""], [False], values, [(0,)], [example.name], pieces)
        return self(judged)

    def check(self, columns: Iterable[str]) -> None:
        """Checks that every function accepts its keyword arguments.

        Args:
            columns: the names of the task's columns.

        Raises ConfigError where one does not.
        """
        problems = []
        names = list(columns)
        for name in self._weights:
            try:
                if name in NAMED:
                    check_call(NAMED[name], names)
                else:
                    self.process.call("check", name, names)
            except (RefusalError, GoneError) as error:
                problems.append(f"rewards: `{name}` {error}")
        if problems:
            raise ConfigError(problems)

    def __call__(self, judged: Judged, seed: int = 0) -> Scores:
        """Scores of responses.

        Args:
            seed: seeds the random generators of the functions.

        Raises RewardError where a function fails, takes too long, or does not return a finite
        number per response.
        """
        total = [0.0] * len(judged.completions)
        others: dict[str, list[Any]] = {}
        functions: dict[str, str] = {}
        arguments = judged.arguments()
        for name, weight in self._weights.items():
            try:
                if name in NAMED:
                    columns = scored(NAMED[name], arguments)
                else:
                    columns = self.process.call("score", name, arguments, seed)
            except RefusalError as refusal:
                where = judged.named(refusal.response)
                raise RewardError(f"reward function `{name}` {refusal}{where}") from None
            except GoneError as error:
                raise RewardError(f"reward function `{name}` {error}{judged.named(None)}") from None
            reward = columns.pop("reward")
            total = [so_far + weight * value for so_far, value in zip(total, reward, strict=True)]
            if len(self._weights) > 1:
                columns[self._column(name)] = reward
            for column, values in columns.items():
                if column in others:
                    raise RewardError(
                        f"reward function `{name}` returned the column `{column}`, as "
                        f"`{functions[column]}` did"
                    )
                others[column] = values
                functions[column] = name
        for k, value in enumerate(total):
            if abs(value) > _LARGEST:
                raise RewardError(f"the rewards add up to {value!r}{judged.named(k)}")
        return Scores(total, others, functions)

    def _column(self, name: str) -> str:
        """The column of one reward of several; by its full name if the last part is ambiguous."""
        short = Counter(other.rpartition(":")[2] for other in self._weights)
        last = name.rpartition(":")[2]
        return f"reward_{last if short[last] == 1 else name}"


_LARGEST = sys.float_info.max
