"""Rows distributed over processes add up to the step that a single process would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import gallery_ranks
from helpers.two_processes import run_two


@pytest.mark.slow
def test_every_objective_over_two_processes(tmp_path: Path) -> None:
    run_two(gallery_ranks.work, tmp_path)
