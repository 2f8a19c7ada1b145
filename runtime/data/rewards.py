"""Reward functions, by name or import path, and the scores that they return.

A reward function takes keywords and returns a number per response, or several columns of which
`reward` is one:

    def short_and_exact(*, completions, answer, **_):
        right = [float(c == a) for c, a in zip(completions, answer)]
        return {"reward": right, "characters": [len(c) for c in completions]}

It is given `prompts`, `completions`, `truncated`, and every other column of the task, each as a
list with an entry per response; a function that ignores some says so with `**_`. Prompts and
completions are texts, also those of a chat. One that takes `completion_ids` is given the tokens of
each response, too. Further columns are logged, and are there for an objective that asks for them
with `given`: a number per response, or a list per response with a number per token.

Functions with an import path run in a separate process; see `judge`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any

from objdsl.diagnostic import near
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.runtime.data.judge import (
    OF_THE_RUN,
    TOKENS,
    RefusalError,
    check_call,
    scored,
    serve,
    shown,
)
from objdsl.runtime.processes.children import without_rank
from objdsl.runtime.settings.config import ConfigError

RewardFunction = Callable[..., Sequence[float] | Mapping[str, Sequence[float]]]


class RewardError(ObjdslError, ValueError):
    """A reward function failed, or what it returned is not a number per response."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The weighted sum of the rewards of each response, and the other columns of the functions.

    A column has a number for each response, or a list of numbers, one for each of its tokens.
    """

    reward: list[float]
    columns: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Responses to be scored; every field has an entry for each of them.

    Attributes:
        columns: the columns of the task.
        tokens: the tokens of each completion, for columns of tokens.
        places: the location of the row of each prompt, for messages.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    truncated: Sequence[bool]
    columns: Mapping[str, Sequence[Any]]
    tokens: Sequence[Sequence[int]]
    places: Sequence[str]

    def arguments(self) -> dict[str, Any]:
        """The keywords of a reward function. Those of the run override columns of the task."""
        own = (self.prompts, self.completions, self.truncated)
        tokens = [list(row) for row in self.tokens]
        return {**self.columns, **dict(zip(OF_THE_RUN, own, strict=True)), TOKENS: tokens}

    def named(self, response: int | None) -> str:
        """The rows that a message is about."""
        if response is not None:
            return f" ({self.places[response]}, completion {shown(self.completions[response])})"
        rows = list(dict.fromkeys(self.places))
        more = f" and {len(rows) - 3} others" if len(rows) > 3 else ""
        return f" (on responses to {', '.join(rows[:3])}{more})"


def exact(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the response is the answer, ignoring whitespace around it."""
    return [
        float(completion.strip() == str(right).strip())
        for completion, right in zip(completions, answer, strict=True)
    ]


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the last number of the response is the last number of the answer (GSM8K)."""

    def last(text: str) -> Decimal | None:
        found = _NUMBER.findall(text)
        return Decimal(found[-1].replace(",", "")) if found else None

    pairs = [
        (last(completion), last(str(right)))
        for completion, right in zip(completions, answer, strict=True)
    ]
    return [float(said is not None and said == right) for said, right in pairs]


NAMED: dict[str, RewardFunction] = {"exact": exact, "last_number": last_number}


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

    Raises ConfigError for a function that does not exist.
    """

    def __init__(self, weights: Mapping[str, float], deadline: float = 300.0) -> None:
        if not weights:
            raise ConfigError(["rewards: there is none"])
        for name in weights:
            check_name(name)
        self._weights = dict(weights)
        self.process = Process(deadline)
        try:
            for name in self.imported:
                self._call("load", name)
        except BaseException:
            self.close()
            raise

    @property
    def imported(self) -> list[str]:
        """The functions that are not built in."""
        return [name for name in self._weights if name not in NAMED]

    def close(self) -> None:
        """Ends the process of the functions; may be called twice."""
        self.process.close()

    def _call(self, call: str, name: str, *arguments: Any) -> Any:
        try:
            return self.process.call(call, name, *arguments)
        except (RefusalError, _GoneError) as error:
            raise ConfigError([f"rewards: `{name}` {error}"]) from None

    def check(self, columns: Iterable[str]) -> None:
        """Checks that every function accepts the keywords that it will be given.

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
            except (RefusalError, _GoneError) as error:
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
            except _GoneError as error:
                raise RewardError(f"reward function `{name}` {error}{judged.named(None)}") from None
            own = columns.pop("reward")
            total = [so_far + weight * value for so_far, value in zip(total, own, strict=True)]
            if len(self._weights) > 1:
                columns[self._column(name)] = own
            for column, values in columns.items():
                if column in others:
                    raise RewardError(
                        f"reward function `{name}` returned the column `{column}`, which another "
                        "one has returned"
                    )
                others[column] = values
        for k, value in enumerate(total):
            if abs(value) > _LARGEST:
                raise RewardError(f"the rewards add up to {value!r}{judged.named(k)}")
        return Scores(total, others)

    def _column(self, name: str) -> str:
        """The column of one reward of several; by its full name if the last part is ambiguous."""
        short = Counter(other.rpartition(":")[2] for other in self._weights)
        last = name.rpartition(":")[2]
        return f"reward_{last if short[last] == 1 else name}"


_LARGEST = sys.float_info.max


# --- the process of the functions ----------------------------------------------------------------


class _GoneError(ObjdslError):
    """The process does not answer, and is ended."""


# The child finds modules in the same folders as this process.
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from objdsl.runtime.data.judge import serve; serve(int(sys.argv.pop(1)))"
)


def _is_only_here(name: str) -> bool:
    """Whether a function is in a module that no other process can import, as in a notebook."""
    module = sys.modules.get(name.partition(":")[0])
    return module is not None and getattr(module, "__spec__", None) is None


class _Forked:
    """A child with the modules of this process. It cannot rely on torch."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setpgid(0, 0)
            ours.close()
            serve(theirs.fileno())
        finally:
            os._exit(1)

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("rewards", timeout or 0.0)
            else:
                time.sleep(0.01)
        return self._code


class Process:
    """The child that `judge.serve` runs in; it begins with the first call."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.child: subprocess.Popen[bytes] | _Forked | None = None
        self._pipe: Connection | None = None

    def call(self, *call: Any) -> Any:
        """The answer of the child.

        Raises:
            RefusalError: what it says against the call.
            _GoneError: it died, or took too long.
        """
        if self._pipe is None:
            self._start(call[1])
        assert self._pipe is not None
        try:
            self._pipe.send(call)
            if not self._pipe.poll(self.deadline):
                self.close()
                late = f"took more than {self.deadline:g} s (reward_deadline), and was ended"
                raise _GoneError(late)
            reply = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            raise _GoneError(f"ended its process ({self._ending()})") from None
        except ValueError as error:  # what it printed to descriptors that are not its own
            self.close()
            raise _GoneError(f"spoils what its process says ({error})") from None
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise _GoneError(f"cannot be given the columns of the task: {error}") from None
        if "problem" in reply:
            raise RefusalError(reply["problem"], reply.get("response"))
        return reply["answer"]

    def _start(self, name: str) -> None:
        folders = json.dumps([str(folder) for folder in sys.path])
        ours, theirs = socket.socketpair()
        with theirs:
            self.child = (
                _Forked(ours, theirs)
                if _is_only_here(name)
                else subprocess.Popen(
                    [sys.executable, "-u", "-c", _START, folders, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=without_rank(os.environ),
                    process_group=0,  # Ctrl-C is for the run, which ends after its step
                )
            )
        self._pipe = Connection(ours.detach())

    def _ending(self) -> str:
        """How the child ended, after it has."""
        assert self.child is not None
        try:
            code = self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None:
            return "it closed its pipe"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def close(self) -> None:
        """Ends the child, and the processes that it has started."""
        if self._pipe is not None:
            self._pipe.close()
        if self.child is not None:
            for end in (os.killpg, os.kill):
                with suppress(ProcessLookupError, PermissionError):
                    end(self.child.pid, signal.SIGKILL)
            self.child.wait()
        self._pipe = self.child = None
