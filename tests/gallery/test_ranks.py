"""Rows that are spread over processes: together they are the step that one process would have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import run_two

sys.path.insert(0, str(Path(__file__).parent))

import spread


@pytest.mark.slow
def test_every_objective_over_two_processes(tmp_path: Path) -> None:
    run_two(spread.work, tmp_path)
