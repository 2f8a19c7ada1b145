"""verl's trainers and workers with an objective, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.proof
@pytest.mark.skipif(not (find_spec("verl") and find_spec("ray")), reason="verl is not installed")
def test_trainers_and_workers(tmp_path: Path) -> None:
    """What of verl is run, and how, `helpers/verl_run.py` says."""
    command = [sys.executable, "-m", "helpers.verl_run", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-4000:]
    printed = [line.partition(":")[0] for line in run.stdout.splitlines()]
    assert [line for line in printed if line in {"grpo", "kl_cov", "trainers"}] == [
        "grpo",
        "kl_cov",
        "trainers",
    ]
