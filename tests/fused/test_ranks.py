"""Data parallel: ranks are micro-batches. What two processes add up is what one computes."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import ranks


@pytest.mark.parametrize("share", ranks.SHARES)
def test_two_processes_are_one(share: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(ranks.work, (port, share, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in ranks.NAMES:
        whole = ranks.evaluate(name, None)
        for key, x in whole.items():
            for rank in range(2):
                if key in found[rank][name]:
                    torch.testing.assert_close(
                        found[rank][name][key], x, rtol=1e-11, atol=1e-13, msg=f"{name}: {key}"
                    )
        assert {"value", "weight", "bias"} <= found[0][name].keys()
