"""The process that reward functions run in, and what they may return.

A function is untrusted code: it may hang, change the folder, seed generators, replace signal
handlers, or end the process. Here that affects nothing else. This module imports neither torch nor
the settings, so that the process starts at once.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from objdsl.errors import ObjdslError
from objdsl.runtime.processes.children import end_with_parent

# Keywords that every reward function is given, whatever the task.
OF_THE_RUN = ("prompts", "completions", "truncated")
# The token ids of every completion, for functions that have this parameter.
TOKENS = "completion_ids"
# The text of each of these tokens, for functions that have this parameter by name.
PIECES = "completion_tokens"

# Seconds for calling a failing function with single rows, to find the one that it fails on.
_SEARCH = 5.0


class RefusalError(ObjdslError):
    """A function failed, or did not return a number per response.

    Attributes:
        response: the index of the response, if the problem concerns a single one.
    """

    def __init__(self, problem: str, response: int | None = None) -> None:
        self.problem = problem
        self.response = response
        super().__init__(problem)


# --- a function ----------------------------------------------------------------------------------


def imported(name: str) -> Callable[..., Any]:
    """The function at an import path `package.module:function`. Raises RefusalError."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except BaseException as error:  # the module is the user's, and may fail in any way
        plain = isinstance(error, (ImportError, AttributeError))
        raise RefusalError(f"cannot be imported: {error if plain else described(error)}") from None
    if not callable(function):
        raise RefusalError("is not a function")
    return function  # type: ignore[no-any-return]


def check_call(function: Callable[..., Any], columns: Sequence[str]) -> None:
    """Raises RefusalError where a function does not take what it will be given."""
    names = dict.fromkeys([*OF_THE_RUN, *columns])
    others = [TOKENS] * takes(function, TOKENS, anything=True) + [PIECES] * takes(function, PIECES)
    try:
        inspect.signature(function).bind(**dict.fromkeys([*names, *others]))
    except TypeError as error:
        given = ", ".join(f"`{name}`" for name in names)
        raise RefusalError(
            f"cannot be called: {error}; it is given {given} as keywords, and `**_` takes those "
            "that it does not read"
        ) from None
    except ValueError:  # a callable without a signature: only a call can tell
        return


def scored(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns that a function returns, `reward` among them.

    A column is a finite number for each response, or a list of them, one for each token.

    Raises RefusalError where the function fails, or returns something else.
    """
    given = _given(function, arguments)
    try:
        returned = function(**given)
    except BaseException as error:  # also SystemExit
        raise RefusalError(
            f"failed: {described(error)}", _culprit(function, given, error)
        ) from None
    return checked(returned, arguments[TOKENS])


async def awaited(
    function: Callable[..., Any], arguments: Mapping[str, Any], deadline: float
) -> dict[str, list[Any]]:
    """The results of an `async` function, which is cancelled after `deadline` seconds."""
    given = _given(function, arguments)
    try:
        async with asyncio.timeout(deadline) as limit:
            returned = await function(**given)
    except BaseException as error:
        if isinstance(error, TimeoutError) and limit.expired():
            raise RefusalError(late(deadline)) from None
        raise RefusalError(f"failed: {described(error)}") from None
    return checked(returned, arguments[TOKENS])


def late(deadline: float) -> str:
    return f"took more than {deadline:g} s (reward_deadline), and was ended"


def _given(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that a function is given."""
    given = dict(arguments)
    if not takes(function, TOKENS, anything=True):
        del given[TOKENS]
    if not takes(function, PIECES):
        given.pop(PIECES, None)
    return given


def checked(returned: Any, tokens: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """What a function returned, as columns.

    Args:
        tokens: of each response.

    Raises RefusalError for anything but numbers for each response.
    """
    named = returned if isinstance(returned, Mapping) else {"reward": returned}
    if "reward" not in named:
        raise RefusalError(
            "returned no column `reward`, the number per response that is reported and evaluated"
        )
    columns = {}
    for name, values in named.items():
        if not isinstance(name, str) or not name:
            raise RefusalError(f"returned a column that is called {shown(name)}: a text is needed")
        columns[name] = _checked(name, values, tokens)
    return columns


def takes(function: Callable[..., Any], name: str, anything: bool = False) -> bool:
    """Whether a function has a parameter.

    Args:
        anything: also `**_`.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    return any(p.name == name or (anything and p.kind is p.VAR_KEYWORD) for p in parameters)


def _culprit(
    function: Callable[..., Any], given: Mapping[str, Any], error: BaseException
) -> int | None:
    """The first response on which alone a function fails in the same way."""
    if not isinstance(error, Exception):
        return None
    end = time.monotonic() + _SEARCH
    for k in range(len(given["completions"])):
        if time.monotonic() > end:
            break
        try:
            function(**{name: values[k : k + 1] for name, values in given.items()})
        except type(error):
            return k
        except BaseException:
            break
    return None


def _checked(name: str, values: Any, tokens: Sequence[Sequence[int]]) -> list[Any]:
    what = "" if name == "reward" else f"column `{name}`: "
    try:
        listed = list(values)
    except Exception:
        raise RefusalError(
            f"{what}returned {shown(values)}: a list with a number per response is needed"
        ) from None
    if len(listed) != len(tokens):
        raise RefusalError(f"{what}has {len(listed)} values for {len(tokens)} responses")
    if not any(_is_list(value) for value in listed):
        return [_number(what, value, f"response {k}", k) for k, value in enumerate(listed)]
    if name == "reward":
        raise RefusalError(
            "returned a list per response as `reward`, which is a number per response: return the "
            "rewards of tokens under a name that the objective declares, as in "
            "`given progress[p,i,t] as reward`"
        )
    rows = []
    for k, (row, tokens_of_row) in enumerate(zip(listed, tokens, strict=True)):
        numbers = list(row) if _is_list(row) else None
        if numbers is None or len(numbers) != len(tokens_of_row):
            count = "one number" if numbers is None else f"{len(numbers)} numbers"
            raise RefusalError(
                f"{what}has {count} for response {k}, which has {len(tokens_of_row)} tokens, EOS "
                f"included: a number is needed for each of its `{TOKENS}`",
                k,
            )
        of = f"response {k}"
        rows.append([_number(what, x, f"token {t} of {of}", k) for t, x in enumerate(numbers)])
    return rows


def _is_list(value: Any) -> bool:
    if isinstance(value, (str, bytes, Mapping)):
        return False
    shape = getattr(value, "shape", None)  # an array of numbers, or a number in an array
    return len(shape) > 0 if shape is not None else hasattr(value, "__iter__")


def _number(what: str, value: Any, place: str, response: int) -> float:
    try:
        number = float(value)
    except Exception:  # not a number, or too large for a float
        number = math.nan
    if not math.isfinite(number):
        raise RefusalError(
            f"{what}is {shown(value)} for {place}: a finite number is needed", response
        )
    return number


def shown(value: Any, limit: int = 80) -> str:
    """A value of any type, for a message."""
    try:
        if isinstance(value, int) and abs(value) >= 10**limit:
            return f"an integer of {int(math.log10(abs(value))) + 1} digits"
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def described(error: BaseException) -> str:
    """`RuntimeError: the judge is offline (judge.py:4)`: where in the user's code it happened."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    stack = traceback.extract_tb(error.__traceback__)
    place = f" ({stack[-1].filename}:{stack[-1].lineno})" if stack else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


# --- the process ---------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Answers calls, as JSON, until the other end of the pipe is closed."""
    end_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A scheduler signals all processes, but the run decides when they end. Handlers are used
        # instead of SIG_IGN, which programs that a function starts would inherit.
        signal.signal(number, lambda *_: None)
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    functions: dict[str, Callable[..., Any]] = {}
    loop = asyncio.new_event_loop()  # a single one: clients of servers belong to theirs
    while True:
        reply: dict[str, Any]
        try:
            reply = {"answer": _answer(functions, loop, *pipe.recv())}
        except EOFError:
            os._exit(0)  # whatever threads the functions have started
        except RefusalError as refusal:
            reply = {"problem": refusal.problem, "response": refusal.response}
        except Exception as error:  # a value whose class does not exist here
            reply = {"problem": f"cannot be given the columns of the task: {described(error)}"}
        pipe.send_bytes(json.dumps(reply).encode())


def _answer(
    functions: dict[str, Callable[..., Any]],
    loop: asyncio.AbstractEventLoop,
    call: str,
    names: str | Sequence[str],
    *arguments: Any,
) -> Any:
    listed = [names] if isinstance(names, str) else [*names]
    for name in listed:
        if name not in functions:
            functions[name] = imported(name)
    function = functions[listed[0]]
    match call:
        case "load":
            return {"pieces": takes(function, PIECES), "awaits": is_async(function)}
        case "check":
            check_call(function, *arguments)
        case "score":
            given, seed = arguments
            _seed(seed)
            return scored(function, given)
        case "gather":
            *where, seed = arguments
            _seed(seed)
            judges = [functions[name] for name in listed]
            return loop.run_until_complete(_gathered(judges, *where))
    return None


def is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


async def _gathered(
    functions: Sequence[Callable[..., Any]],
    arguments: Mapping[str, Any],
    groups: Sequence[slice],
    deadline: float,
) -> list[list[dict[str, Any]]]:
    """The replies of `async` functions to each group of responses, all of them side by side."""

    async def reply(function: Callable[..., Any], rows: slice) -> dict[str, Any]:
        part = {name: values[rows] for name, values in arguments.items()}
        try:
            return {"answer": await awaited(function, part, deadline)}
        except RefusalError as refusal:
            return {"problem": refusal.problem, "response": refusal.response}

    replies = [reply(function, rows) for function in functions for rows in groups]
    flat = iter(await asyncio.gather(*replies))
    return [[next(flat) for _ in groups] for _ in functions]


def _seed(seed: int) -> None:
    """Seeds the generators, so that a step that is repeated draws the same numbers."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
