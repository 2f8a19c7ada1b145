"""What two processes add up is what one computes, for every objective: each has some responses, or
some tokens of all."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from processes import run_two


@pytest.mark.slow
@pytest.mark.parametrize("work", ["work", "sequences"])
def test_two_processes_are_one(work: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Fresh processes look for modules where this one does. No longer than they need to: the folder
    # `triton` beside this file would be taken for the package.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    ranks = importlib.import_module("ranks")
    run_two(getattr(ranks, work), tmp_path)
