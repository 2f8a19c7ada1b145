"""Two processes of a group, for tests: started, and shut down in a safe order."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from objdsl.runtime.processes.ranks import LOOPBACK

# Imported once, as it takes seconds, in the server that all of these processes are forked from.
HEAVY = ["torch", "objdsl", "objdsl.runtime.run.loop", "transformers.models.qwen3.modeling_qwen3"]


def run_two(work: Callable[..., None], *arguments: object) -> None:
    """Runs `work(rank, *arguments)` in two new processes; an error in one is raised here."""
    torch.multiprocessing.set_forkserver_preload(HEAVY)
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        work, arguments, nprocs=2, start_method="forkserver"
    )


@contextmanager
def group_of_two(rank: int, folder: Path) -> Iterator[None]:
    """Join the other process, over the loopback interface, and leave together.

    They meet at a file in `folder`: a port that was free a moment ago may be another test's by now,
    and a store that listens on one has threads that outlive the group. A rank that left first
    would break the other's connections; a group that the interpreter finds alive at its end aborts
    the process.
    """
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    address = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()
        gc.collect()
