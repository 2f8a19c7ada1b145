"""A folder that one process at a time writes to."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from objdsl.runtime.config import ConfigError

LOCK = ".lock"


class Lock:
    """The right to write to a folder, which one process has at a time, for as long as it lives.

    The system takes it back when the process ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError, which names the process that has it, and OSError without a folder."""
        self._path = folder / LOCK
        self._fresh = _make(folder)
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
                os.close(self._file)
                raise ConfigError(
                    [
                        f"{folder} belongs to a run that is going on"
                        + (f" ({holder})" if holder else "")
                        + ": wait for it, or choose another `--output`"
                    ]
                ) from None
            except OSError as error:
                os.close(self._file)
                raise ConfigError([f"{folder} cannot be locked: {error.strerror}"]) from None
            # Whoever had it removed the file, which another process may have made again.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    break
            os.close(self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    @property
    def made(self) -> bool:
        """Whether the folder was not there before."""
        return bool(self._fresh)

    def release(self) -> None:
        """Gives it back; a folder that was made for it, and is empty, goes with it."""
        try:
            with suppress(OSError):
                os.unlink(self._path)
        finally:
            os.close(self._file)
        _remove(self._fresh)


def _make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; the ones that were not there, the innermost first."""
    made: list[Path] = []
    for path in (*reversed(folder.parents), folder):
        try:
            path.mkdir()
            made.insert(0, path)
        except FileExistsError:
            continue
        except OSError:
            if not os.path.isdir(path):  # or one of a file system that may not be written to
                _remove(made)
                raise
    return made


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something was written to it
            folder.rmdir()
