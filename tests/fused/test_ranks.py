"""What two processes add up is what one computes, for every objective: each has some responses, or
some tokens of all."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
@pytest.mark.parametrize("work", ["work", "sequences"])
def test_two_processes_are_one(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fresh processes look for modules where this one does. No longer than they need to: the folder
    # `triton` beside this file would be taken for the package.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    ranks = importlib.import_module("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(getattr(ranks, work), (port,), nprocs=2)  # type: ignore[no-untyped-call]
