"""Reward functions, which runs import as `helpers.reward_functions:NAME`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


def even(*, completions: list[str], **_: Any) -> list[float]:
    """1 for a response that begins with an even digit, so that an untrained policy gets some
    rewards."""
    return [float(text[:1] in {"0", "2", "4", "6", "8"}) for text in completions]


def restless(*, completions: list[str], **others: Any) -> list[float]:
    """The same, by a function with as many side effects as possible."""
    os.chdir("/")
    os.environ.clear()
    random.seed(time.time())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.path.clear()
    os.closerange(0, 3)
    return even(completions=completions, **others)


def drawn(*, completions: list[str], **_: Any) -> list[float]:
    """Random rewards."""
    return [random.random() for _ in completions]


def hangs(**_: Any) -> list[float]:
    time.sleep(3600)
    return []


def leaves(**_: Any) -> list[float]:
    sys.exit(3)


def dies(**_: Any) -> list[float]:
    os._exit(3)


def crashes(**_: Any) -> list[float]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def picky(*, completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Fails on the prompt whose answer is 7."""
    return [1 / (int(right) - 7) for right in answer]


def huge(*, completions: list[str], **_: Any) -> list[float]:
    return [10**400] * len(completions)  # type: ignore[list-item]


def keys(*, completions: list[str], **_: Any) -> dict[str, list[float]]:
    """Columns with the names of metrics."""
    names = ("step", "prompt", "response", "length", "seconds", "tokens")
    return {name: [7.0] * len(completions) for name in ("reward", *names)}


def by_token(*, completion_ids: list[list[int]], **_: Any) -> dict[str, list[Any]]:
    """A number per token, its position, and 1 for a response of three tokens."""
    rewards = [float(len(row) == 3) for row in completion_ids]
    return {"reward": rewards, "place": [[*range(len(row))] for row in completion_ids]}


def too_few(*, completion_ids: list[list[int]], **_: Any) -> dict[str, list[Any]]:
    return {"reward": [1.0] * len(completion_ids), "place": [[1.0] for _ in completion_ids]}


def deadly(*, completions: list[str], **_: Any) -> list[float]:
    """Kills the other process of the run."""
    rank = os.getppid()  # this is the process of its reward functions
    launcher = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for pid in map(int, children):
        if pid != rank:
            os.kill(pid, signal.SIGKILL)
    return [1.0] * len(completions)


def judged_by_token(
    *, completions: list[str], completion_tokens: list[list[str]], **_: Any
) -> dict[str, list[Any]]:
    """Three rewards, and a mask of all tokens after an even digit."""
    mask = [
        [1.0] + [float(text not in {"0", "2", "4", "6", "8"}) for text in row[:-1]]
        for row in completion_tokens
    ]
    return {
        "reward": [float(len(text)) for text in completions],
        "correct": [float(text[:1] in {"1", "3", "5"}) for text in completions],
        "format": [min(1.0, len(text) / 8) for text in completions],
        "progress": [
            [live * (text in {"1", "3", "k"}) for text, live in zip(*row, strict=True)]
            for row in zip(completion_tokens, mask, strict=True)
        ],
        "loss_mask": mask,
    }


def fussy(*, completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Fails in a different way on the prompts whose answers are 5, 6, 7 and 8."""
    if "5" in answer:
        return [float("nan") if right == "5" else 1.0 for right in answer]
    if "6" in answer:
        raise ValueError("no six")
    if "7" in answer:
        os._exit(3)
    if "8" in answer:
        time.sleep(3600)
    return [float(len(text)) for text in completions]


_ARRIVED: list[str] = []
_ALL_ARRIVED = asyncio.Event()


async def meets(*, completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Returns once six calls wait for each other; fails on the answer 6, hangs on 8."""
    if answer[0] == "6":
        raise ValueError("no six")
    if answer[0] == "8":
        await asyncio.sleep(3600)
    _ARRIVED.append(answer[0])
    if len(_ARRIVED) == 6:
        _ALL_ARRIVED.set()
    await _ALL_ARRIVED.wait()
    return [float(len(text)) for text in completions]


async def meets_too(*, completions: list[str], answer: list[str], **_: Any) -> dict[str, Any]:
    rewards = await meets(completions=completions, answer=answer)
    return {"reward": rewards, "responses": [float(len(rewards))] * len(rewards)}


def even_unless_nine(*, completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """As `even`; fails on prompts whose answer ends in 9."""
    if any(right.endswith("9") for right in answer):
        raise ValueError("no nine")
    return even(completions=completions)
