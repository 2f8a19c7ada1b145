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

Functions with an import path run in a separate process; see `judge`. Those that are `async` are
called for the responses to each prompt, and all these calls run side by side. A sequence classifier
(`hf:FOLDER`) runs in this process; see `scorer`.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from objdsl.diagnostic import near
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judge import (
    PIECES,
    RefusalError,
    check_call,
    checked,
    scored,
    takes,
)
from objdsl.runtime.data.judged import Judged
from objdsl.runtime.data.math_answers import check_installed
from objdsl.runtime.data.reward_process import GoneError, RewardProcess
from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from objdsl.runtime.data.scorer import Scorer

RewardFunction = Callable[..., Sequence[float] | Mapping[str, Sequence[float]]]


class RewardError(ObjdslError, ValueError):
    """A reward function failed, or did not return a number per response."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The weighted sum of the rewards of each response, and the other columns of the functions.

    A column has a number for each response, or a list of numbers, one for each of its tokens.

    Attributes:
        functions: the reward function that returned each column.
        failures: the responses without scores, and why; their reward is NaN.
    """

    reward: list[float]
    columns: dict[str, list[Any]]
    functions: dict[str, str]
    failures: Mapping[int, str] = field(default_factory=dict)

    def __getitem__(self, rows: Sequence[int]) -> Scores:
        """The scores of some responses."""
        columns = {name: [values[k] for k in rows] for name, values in self.columns.items()}
        return Scores([self.reward[k] for k in rows], columns, self.functions)


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


# The process of reward functions runs this one, too: an expression may take forever to simplify.
MATH = "math_verify"
_MATH_PATH = "objdsl.runtime.data.math_answers:equivalent"
# Every name of a function that compares with the answer.
BUILT_IN = (*NAMED, MATH)
# A sequence classifier of transformers: `hf:FOLDER`.
CLASSIFIER = "hf:"
# Seconds for `async` functions that are cancelled at their deadline to say so.
_GRACE = 5.0


def check_name(name: str) -> None:
    """Raises ConfigError for a name that is neither built in nor an import path."""
    if name == MATH:
        check_installed()
    if ":" in name or name in BUILT_IN:
        return
    guess = near(name, BUILT_IN)
    hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(BUILT_IN)}"
    raise ConfigError(
        [f"rewards: no reward `{name}`; {hint} (or `package.module:function`, or `hf:FOLDER`)"]
    )


@dataclass(frozen=True, slots=True)
class Judge:
    """What scoring by classifiers needs: the policy's tokenizer, a device, and a log."""

    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    say: Callable[[str], None]


class Rewards:
    """Several reward functions, weighted and summed.

    Args:
        weights: the weight of each function, by its name or import path.
        deadline: seconds that a function may take for the responses of a step.
        failures: the share of the prompts whose responses a function may fail to score.
        judge: what classifiers need; without it they are not loaded, and only `trial` works.

    Attributes:
        names: of the functions.
        may_fail: whether a function may fail for some prompts.
        reads_pieces: whether a function reads the texts of tokens.

    Raises ConfigError for a function that does not exist.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        deadline: float = 300.0,
        failures: float = 0.0,
        judge: Judge | None = None,
    ) -> None:
        if not weights:
            raise ConfigError(["rewards: at least one function is needed"])
        for name in weights:
            check_name(name)
        self._weights = dict(weights)
        self._failures = failures
        self.may_fail = failures > 0
        self.names = tuple(weights)
        self.process = RewardProcess(deadline)
        self.reads_pieces = any(takes(NAMED[name], PIECES) for name in weights if name in NAMED)
        self._scorers: dict[str, Scorer] = {}
        self._async: list[str] = []
        try:
            for name in self._imported:
                loaded = self._call("load", _path(name))
                self.reads_pieces |= loaded["pieces"]
                self._async += [name] if loaded["awaits"] else []
            if judge is not None:
                self._load_scorers(judge)
        except BaseException:
            self.close()
            raise

    @property
    def _imported(self) -> list[str]:
        """The functions that run in the process."""
        return [x for x in self.names if x not in NAMED and not x.startswith(CLASSIFIER)]

    def _load_scorers(self, judge: Judge) -> None:
        for name in self.names:
            if name.startswith(CLASSIFIER):
                from objdsl.runtime.data.scorer import Scorer

                scorer = Scorer(name.removeprefix(CLASSIFIER), judge.tokenizer, judge.device)
                judge.say(f"reward `{name}`: {scorer.reads}")
                self._scorers[name] = scorer

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
                elif name in self._imported:
                    self.process.call("check", _path(name), names)
            except (RefusalError, GoneError) as error:
                problems.append(f"rewards: `{name}` {error}")
        if problems:
            raise ConfigError(problems)

    def __call__(self, judged: Judged, seed: int = 0) -> Scores:
        """Scores of responses.

        Args:
            seed: seeds the random generators of the functions.

        Raises RewardError where functions fail, take too long, or do not return a finite number per
        response, for more prompts than may fail.
        """
        total = [0.0] * len(judged.completions)
        others: dict[str, list[Any]] = {}
        functions: dict[str, str] = {}
        failures: dict[int, str] = {}
        parts = self._awaited(judged, seed, failures)
        parts |= {
            name: self._scored(name, judged, seed, failures)
            for name in self.names
            if name not in parts
        }
        for name, weight in self._weights.items():
            columns = _joined(name, parts[name], len(judged.completions))
            reward = columns.pop("reward")
            total = [
                math.nan if k in failures else so_far + weight * value
                for k, (so_far, value) in enumerate(zip(total, reward, strict=True))
            ]
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
        return Scores(total, others, functions, failures)

    def _scored(self, name: str, judged: Judged, seed: int, failures: dict[int, str]) -> _Parts:
        """The columns of a function. If it fails and may, it is called for each prompt alone, to
        find those that it fails for; these are added to `failures`."""
        every = range(len(judged.completions))
        try:
            return [(every, self._columns(name, judged, seed))]
        except RewardError:
            if not self.may_fail or len(judged.by_prompt) == 1:
                raise
        parts = []
        for rows in judged.by_prompt:
            try:
                parts.append((rows, self._columns(name, judged[rows], seed)))
            except RewardError as error:
                self._record(failures, rows, str(error), judged)
        return parts

    def _columns(self, name: str, judged: Judged, seed: int) -> dict[str, list[Any]]:
        try:
            if name in NAMED:
                return scored(NAMED[name], judged.arguments())
            if name.startswith(CLASSIFIER):
                if judged.encoded is None:  # a trial asks for the names of columns alone
                    return {"reward": [0.0] * len(judged.completions)}
                return checked(self._scorers[name](judged), judged.tokens)
            columns: dict[str, list[Any]] = self.process.call(
                "score", _path(name), judged.arguments(), seed
            )
        except (RefusalError, GoneError) as error:
            raise _error(name, error, judged) from None
        return columns

    def _awaited(self, judged: Judged, seed: int, failures: dict[int, str]) -> dict[str, _Parts]:
        """The columns of the `async` functions, which are called for each prompt, all at once."""
        if not self._async:
            return {}
        groups = judged.by_prompt
        slices = [slice(rows.start, rows.stop) for rows in groups]
        paths = [*map(_path, self._async)]
        given = judged.arguments(), slices, self.process.deadline, seed
        try:
            replies = self.process.call("gather", paths, *given, grace=_GRACE)
        except (RefusalError, GoneError) as error:
            raise _error("`, `".join(self._async), error, judged) from None
        parts: dict[str, _Parts] = {}
        for name, answers in zip(self._async, replies, strict=True):
            parts[name] = []
            for rows, reply in zip(groups, answers, strict=True):
                if "answer" in reply:
                    parts[name].append((rows, reply["answer"]))
                    continue
                refusal = RefusalError(reply["problem"], reply["response"])
                self._record(failures, rows, str(_error(name, refusal, judged[rows])), judged)
        return parts

    def _record(self, failures: dict[int, str], rows: range, why: str, judged: Judged) -> None:
        """Adds the responses to a prompt to `failures`. Raises RewardError for too many."""
        if not self.may_fail:
            raise RewardError(why)
        for k in rows:
            failures.setdefault(k, why)
        groups = judged.by_prompt
        failed = sum(rows.start in failures for rows in groups)
        if failed > self._failures * len(groups) or failed == len(groups):
            raise RewardError(
                f"{next(iter(failures.values()))}; the responses to {failed} of {len(groups)} "
                f"prompts have no reward, and reward_failures is {self._failures:g}"
            )

    def _column(self, name: str) -> str:
        """The column of one reward of several; by its full name if the last part is ambiguous."""
        short = Counter(map(_short, self._weights))
        return f"reward_{_short(name) if short[_short(name)] == 1 else name}"


_LARGEST = sys.float_info.max
# The columns of some responses.
_Parts = list[tuple[range, dict[str, list[Any]]]]


def _path(name: str) -> str:
    return _MATH_PATH if name == MATH else name


def _short(name: str) -> str:
    last = name.rpartition(":")[2]
    return last.rstrip("/").rpartition("/")[2] if name.startswith(CLASSIFIER) else last


def _error(name: str, error: RefusalError | GoneError, judged: Judged) -> RewardError:
    response = error.response if isinstance(error, RefusalError) else None
    return RewardError(f"reward function `{name}` {error}{judged.named(response)}")


def _joined(name: str, parts: _Parts, count: int) -> dict[str, list[Any]]:
    """The columns of all responses, None for those without.

    Raises RewardError where those of two prompts have different columns.
    """
    kinds = [{column: isinstance(x[0], list) for column, x in part.items()} for _, part in parts]
    for kind in kinds:
        if kind != kinds[0]:
            differing = sorted(name for name, _ in kind.items() ^ kinds[0].items())
            raise RewardError(
                f"reward function `{name}` does not return the column `{differing[0]}` for every "
                "prompt alike"
            )
    columns: dict[str, list[Any]] = {column: [None] * count for column in kinds[0]}
    for rows, part in parts:
        for column, values in part.items():
            columns[column][rows.start : rows.stop] = values
    return columns
