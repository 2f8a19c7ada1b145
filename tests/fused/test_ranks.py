"""Data parallel: ranks are micro-batches. What two processes add up is what one computes."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("share", ["ragged", "idle"])
def test_two_processes_are_one(share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fresh processes look for modules where this one does. No longer than they need to: the folder
    # `triton` beside this file would be taken for the package.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    ranks = importlib.import_module("ranks")
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
