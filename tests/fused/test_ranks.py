"""Two processes add up to what one computes, for every objective: each has some responses, or some
tokens of all."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import fused_ranks
from helpers.two_processes import run_two


@pytest.mark.slow
@pytest.mark.parametrize("work", ["work", "sequences"])
def test_two_processes_are_one(work: str, tmp_path: Path) -> None:
    run_two(getattr(fused_ranks, work), tmp_path)
