"""SIGTERM and Ctrl-C end a run between two steps."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@dataclasses.dataclass
class StopRequest:
    """The signal that asked the run to stop, once there is one.

    Attributes:
        signal: its number, or None.
        waits: whether the run ends after the current step; otherwise it ends at once.
    """

    signal: int | None = None
    waits: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C end the run after the current step; a second one ends it at once.

    So does the first one before `waits` is set. From then on nothing ends the process until this
    context does: open it around the run and around the code that reports its errors. A launcher
    sends SIGTERM as soon as it sees that another rank has died.

    Only the main thread may handle signals; in other threads nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        if not request.waits:
            restore()
            signal.raise_signal(number)
        elif request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
