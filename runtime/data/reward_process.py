"""The process that reward functions run in, from outside: calls, deadlines, and its end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from objdsl.errors import ObjdslError
from objdsl.runtime.data.judge import RefusalError, late, serve
from objdsl.runtime.processes.children import without_rank


class GoneError(ObjdslError):
    """The process does not answer, and has been killed."""


# The child finds modules in the same folders as this process.
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from objdsl.runtime.data.judge import serve; serve(int(sys.argv.pop(1)))"
)


def _is_only_here(name: str) -> bool:
    """Whether no other process can import the module of a function, as in a notebook."""
    module = sys.modules.get(name.partition(":")[0])
    return module is not None and getattr(module, "__spec__", None) is None


class _Forked:
    """A forked child, which has the modules of this process. Torch may not work in it."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setpgid(0, 0)
            ours.close()
            serve(theirs.fileno())
        finally:
            os._exit(1)

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("rewards", timeout or 0.0)
            else:
                time.sleep(0.01)
        return self._code


class RewardProcess:
    """The child process that runs `judge.serve`; the first call starts it."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.child: subprocess.Popen[bytes] | _Forked | None = None
        self._pipe: Connection | None = None

    def call(self, *call: Any, grace: float = 0.0) -> Any:
        """The answer of the child.

        Args:
            grace: seconds beyond the deadline, for a call that keeps to the deadline itself.

        Raises:
            RefusalError: the child refuses the call.
            GoneError: it died, or took too long.
        """
        if self._pipe is None:
            self._start([call[1]] if isinstance(call[1], str) else call[1])
        assert self._pipe is not None
        try:
            self._pipe.send(call)
            if not self._pipe.poll(self.deadline + grace):
                self.close()
                raise GoneError(late(self.deadline))
            reply = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            raise GoneError(f"ended its process ({self._ending()})") from None
        except ValueError as error:  # the function wrote to the descriptor of the pipe
            self.close()
            raise GoneError(f"corrupts the answers of its process ({error})") from None
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise GoneError(f"cannot be given the columns of the task: {error}") from None
        if "problem" in reply:
            raise RefusalError(reply["problem"], reply.get("response"))
        return reply["answer"]

    def _start(self, names: Sequence[str]) -> None:
        folders = json.dumps([str(folder) for folder in sys.path])
        ours, theirs = socket.socketpair()
        with theirs:
            self.child = (
                _Forked(ours, theirs)
                if any(map(_is_only_here, names))
                else subprocess.Popen(
                    [sys.executable, "-u", "-c", _START, folders, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=without_rank(os.environ),
                    process_group=0,  # Ctrl-C is for the run, which ends after its step
                )
            )
        self._pipe = Connection(ours.detach())

    def _ending(self) -> str:
        """How the child ended."""
        assert self.child is not None
        try:
            code = self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None:
            return "it closed its pipe"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def close(self) -> None:
        """Kills the child, and the processes that it has started."""
        if self._pipe is not None:
            self._pipe.close()
        if self.child is not None:
            for end in (os.killpg, os.kill):
                with suppress(ProcessLookupError, PermissionError):
                    end(self.child.pid, signal.SIGKILL)
            self.child.wait()
        self._pipe = self.child = None
