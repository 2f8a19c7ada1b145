"""Many files at once: checking is pure Python, so only processes share it out."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Files a process, at least: to start it takes about as long as to check two.
_FEWEST = 8


def parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[work(item) for item in items]`, by forked processes where there are enough of the items.

    They start with all that this process has imported and read. `work`, items and results are
    pickled; what `work` raises is raised here.
    """
    processes = min(_cores(), len(items) // _FEWEST)
    # Only Linux takes a fork well, and a fork takes no other thread along, with whatever it locks.
    if processes < 2 or sys.platform != "linux" or threading.active_count() > 1:
        return [work(item) for item in items]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    share = -(-len(items) // (4 * processes))  # neighbours in a folder may be as hard as each other
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        return list(pool.map(work, items, chunksize=share))


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
