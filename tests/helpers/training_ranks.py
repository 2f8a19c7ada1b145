"""The work of the two processes of tests/runtime/test_ranks.py."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.two_processes import group_of_two
from objdsl.runtime.processes.ranks import RankError
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config, ConfigError


def work(rank: int, folder: Path, runs: list[tuple[dict[str, Any], str | None]]) -> None:
    """Trains with each of several settings, from a checkpoint or from the start."""
    with group_of_two(rank, folder):
        for settings, resume in runs:
            train(Config.model_validate(settings), resume=resume, console=Console(file=StringIO()))
        # The first process finds a run in the folder; the other one gets its error.
        error, text = (
            (ConfigError, "holds a run") if rank == 0 else (RankError, "the first process")
        )
        with pytest.raises(error, match=text):
            train(Config.model_validate(runs[0][0]), console=Console(file=StringIO()))
