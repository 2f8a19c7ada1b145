"""What is right: reward functions by name or import path, and what they return.

A reward function takes keywords and returns a number per response, or several columns of which
`reward` is one:

    def short_and_exact(*, completions, answer, **_):
        right = [float(c == a) for c, a in zip(completions, answer)]
        return {"reward": right, "characters": [len(c) for c in completions]}

It is given `prompts`, `completions`, `truncated`, and every other column of the task, each as a
list with an entry per response; a function that ignores some says so with `**_`. Prompts and
completions are texts, also those of a chat. Further columns are logged, and are there for an
objective that asks for them with `given`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from objdsl.diagnostic import near
from objdsl.frozen import dataclass
from objdsl.runtime.config import ConfigError

RewardFunction = Callable[..., Sequence[float] | Mapping[str, Sequence[float]]]


class RewardError(ValueError):
    """A reward function failed, or what it returned is not a number per response."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each response: the weighted sum of the rewards, and the columns that came with them."""

    reward: list[float]
    columns: dict[str, list[float]]


def exact(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the response is the answer, blanks around it aside."""
    return [
        float(completion.strip() == str(right).strip())
        for completion, right in zip(completions, answer, strict=True)
    ]


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the last number of the response is the last number of the answer (GSM8K)."""

    def last(text: str) -> float | None:
        found = _NUMBER.findall(text)
        return float(found[-1].replace(",", "")) if found else None

    pairs = [
        (last(completion), last(str(right)))
        for completion, right in zip(completions, answer, strict=True)
    ]
    return [float(said is not None and said == right) for said, right in pairs]


NAMED: dict[str, RewardFunction] = {"exact": exact, "last_number": last_number}


def load_reward(name: str) -> RewardFunction:
    """The function that a setting names. Raises ConfigError where there is none."""
    if ":" not in name:
        if name in NAMED:
            return NAMED[name]
        guess = near(name, NAMED)
        hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(NAMED)}"
        raise ConfigError([f"rewards: no reward `{name}`; {hint} (or `package.module:function`)"])
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module is the user's, and may fail in any way
        reason = error if isinstance(error, (ImportError, AttributeError)) else _told(error)
        raise ConfigError([f"rewards: `{name}` cannot be imported: {reason}"]) from None
    if not callable(function):
        raise ConfigError([f"rewards: `{name}` is not a function"])
    if inspect.iscoroutinefunction(function):
        raise ConfigError([f"rewards: `{name}` is `async`, but nothing awaits it"])
    return function  # type: ignore[no-any-return]


class Rewards:
    """Several reward functions, weighted and summed."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            raise ConfigError(["rewards: there is none"])
        self._functions = [(name, load_reward(name), weight) for name, weight in weights.items()]

    def check(self, columns: Iterable[str]) -> None:
        """Whether every function takes what it will be given, before anything is sampled.

        Args:
            columns: names of the task's.

        Raises ConfigError where one does not.
        """
        problems = []
        names = dict.fromkeys([*_OF_THE_RUN, *columns])
        for name, function, _ in self._functions:
            try:
                inspect.signature(function).bind(**names)
            except TypeError as error:
                problems.append(
                    f"rewards: `{name}` cannot be called: {error}; it is given "
                    f"{', '.join(f'`{one}`' for one in names)} as keywords, and `**_` takes those "
                    "that it does not read"
                )
            except ValueError:  # a callable without a signature: the first call will tell
                continue
        if problems:
            raise ConfigError(problems)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        truncated: Sequence[bool],
        columns: Mapping[str, Sequence[Any]],
    ) -> Scores:
        """Scores of `completions`, all arguments with an entry per response.

        Raises RewardError where a function fails, or returns something else than a finite number
        per response.
        """
        total = [0.0] * len(completions)
        others: dict[str, list[float]] = {}
        # What the run knows stands over columns of the task by the same names.
        own_columns = {"prompts": prompts, "completions": completions, "truncated": truncated}
        for name, function, weight in self._functions:
            try:
                returned = function(**{**columns, **own_columns})
            except Exception as error:
                raise RewardError(f"reward function `{name}` failed: {_told(error)}") from error
            named = returned if isinstance(returned, Mapping) else {"reward": returned}
            if "reward" not in named:
                raise RewardError(f"reward function `{name}` returned no column `reward`")
            checked = {
                column: _checked(name if column == "reward" else f"{name}: {column}", values, total)
                for column, values in named.items()
            }
            own = checked.pop("reward")
            total = [so_far + weight * value for so_far, value in zip(total, own, strict=True)]
            if len(self._functions) > 1:
                others[f"reward_{name.rpartition(':')[2]}"] = own
            others |= checked
        return Scores(total, others)


# Keywords that every reward function is given, whatever the task.
_OF_THE_RUN = ("prompts", "completions", "truncated")


def _told(error: Exception) -> str:
    """`RuntimeError: the judge is offline (judge.py:4)`: where in the user's code it happened."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def _checked(name: str, values: Any, responses: Sequence[float]) -> list[float]:
    try:
        listed = list(values)
    except TypeError:
        raise RewardError(
            f"reward function `{name}` returned {values!r}: a list with a number per response is "
            "needed"
        ) from None
    if len(listed) != len(responses):
        raise RewardError(
            f"reward function `{name}` has {len(listed)} values for {len(responses)} responses"
        )
    numbers = []
    for k, value in enumerate(listed):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise RewardError(
                f"reward function `{name}` is {value!r} for response {k}: a finite number is needed"
            )
    return numbers
