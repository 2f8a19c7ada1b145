"""What the processes of test_ranks.py do: a module of its own, which a fresh one can import."""

from __future__ import annotations

import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from processes import group_of_two
from rich.console import Console

from objdsl.runtime.config import Config, ConfigError
from objdsl.runtime.loop import train
from objdsl.runtime.ranks import RankError


def even(*, completions: list[str], **_: Any) -> list[float]:
    """1 for a response that begins with an even digit: a policy that knows nothing gets some."""
    return [float(text[:1] in {"0", "2", "4", "6", "8"}) for text in completions]


def deadly(*, completions: list[str], **_: Any) -> list[float]:
    """Ends the other process of the run, which has no time to say anything."""
    rank = os.getppid()  # this is the process of its reward functions
    launcher = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for pid in map(int, children):
        if pid != rank:
            os.kill(pid, signal.SIGKILL)
    return [1.0] * len(completions)


def work(rank: int, folder: Path, runs: list[tuple[dict[str, Any], str | None]]) -> None:
    """Trains with each of some settings, from a checkpoint or from the start, as one of two."""
    with group_of_two(rank, folder):
        for settings, resume in runs:
            train(Config.model_validate(settings), resume=resume, console=Console(file=StringIO()))
        # The first process looks at the folder, and finds a run there; the other hears of it.
        error, text = (
            (ConfigError, "holds a run") if rank == 0 else (RankError, "the first process")
        )
        with pytest.raises(error, match=text):
            train(Config.model_validate(runs[0][0]), console=Console(file=StringIO()))
