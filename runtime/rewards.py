"""What is right: reward functions by name or import path, and what they return.

A reward function takes keywords and returns a number per response, or several columns of which
`reward` is one:

    def short_and_exact(*, completions, answer, **_):
        right = [float(c == a) for c, a in zip(completions, answer)]
        return {"reward": right, "characters": [len(c) for c in completions]}

It is given `prompts`, `completions`, `truncated`, and every column of the task, each as a list with
an entry per response; a function that ignores some says so with `**_`. Further columns are logged,
and are there for an objective that asks for them with `given`.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objdsl.diagnostic import near
from objdsl.frozen import dataclass
from objdsl.runtime.config import ConfigError

RewardFunction = Callable[..., Sequence[float] | Mapping[str, Sequence[float]]]


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
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"rewards: `{name}` cannot be imported: {error}"]) from None
    if not callable(function):
        raise ConfigError([f"rewards: `{name}` is not a function"])
    return function  # type: ignore[no-any-return]


class Rewards:
    """Several reward functions, weighted and summed."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            raise ConfigError(["rewards: there is none"])
        self._functions = [(name, load_reward(name), weight) for name, weight in weights.items()]

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        truncated: Sequence[bool],
        columns: Mapping[str, Sequence[Any]],
    ) -> Scores:
        """Scores of `completions`, all arguments with an entry per response.

        Raises ValueError where a function returns another number of values, or one that is not
        finite.
        """
        total = [0.0] * len(completions)
        others: dict[str, list[float]] = {}
        for name, function, weight in self._functions:
            returned = function(
                prompts=prompts, completions=completions, truncated=truncated, **columns
            )
            named = returned if isinstance(returned, Mapping) else {"reward": returned}
            if "reward" not in named:
                raise ValueError(f"reward function `{name}` returned no column `reward`")
            checked = {
                column: _checked(f"{name}: {column}", values, len(completions))
                for column, values in named.items()
            }
            own = checked.pop("reward")
            total = [so_far + weight * value for so_far, value in zip(total, own, strict=True)]
            if len(self._functions) > 1:
                others[f"reward_{name.rpartition(':')[2]}"] = own
            others |= checked
        return Scores(total, others)


def _checked(name: str, values: Sequence[float], count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count:
        raise ValueError(
            f"reward function `{name}` has {len(numbers)} values for {count} responses"
        )
    bad = next((k for k, number in enumerate(numbers) if not math.isfinite(number)), None)
    if bad is not None:
        raise ValueError(f"reward function `{name}` is {numbers[bad]} for response {bad}")
    return numbers
