"""Rows that are spread over processes: together they are the step that one process would have."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import spread


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_every_objective_over_two_processes() -> None:
    torch.multiprocessing.spawn(spread.work, (free_port(),), nprocs=2)  # type: ignore[no-untyped-call]
