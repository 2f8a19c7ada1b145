"""Child processes of a run, none of which outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

# The variables by which `torchrun` identifies a rank.
_RANK_VARIABLES = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
}
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without torchrun's variables: the child is not a rank."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("TORCHELASTIC_") and name not in _RANK_VARIABLES
    }


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Sends this process a signal when its parent ends, even if it is killed."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it ended before the call
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
