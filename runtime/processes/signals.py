"""SIGTERM and Ctrl-C end a run between two steps."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0
"""A Ctrl-C this many seconds after the first counts as a second one."""


@dataclasses.dataclass
class StopRequest:
    """The signal that asked the run to stop, once there is one.

    Attributes:
        signal: its number, or None.
        time: when it came, by the monotonic clock.
        waits: whether the run ends after the current step; otherwise it ends at once.
    """

    signal: int | None = None
    time: float = 0.0
    waits: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C end the run after the current step; a second Ctrl-C ends it at once.

    One key press may arrive twice, from the terminal and from a launcher; and a launcher that dies
    may send several SIGTERM, one for each of its threads. So only a Ctrl-C that comes later than
    `AGAIN` is a second one.

    Before `waits` is set, the first signal ends the process at once. From then on nothing ends it
    until this context does: open it around the run and around the code that reports its errors. A
    launcher sends SIGTERM as soon as it sees that another rank has died.

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
        if request.signal is None:
            request.signal, request.time = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > request.time + AGAIN:
            raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
