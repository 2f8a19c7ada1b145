"""Locks: only one process at a time writes to a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from objdsl.runtime.settings.config import ConfigError

LOCK = ".lock"


class Lock:
    """An exclusive lock on a folder, which the operating system releases if the process dies."""

    def __init__(self, folder: Path) -> None:
        """Creates and locks the folder.

        Raises ConfigError if a different process holds the lock, OSError if there is no folder.
        """
        self._path = folder / LOCK
        self._created = _make(folder)
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
                os.close(self._file)
                raise ConfigError(
                    [
                        f"{folder} belongs to a run that is still active"
                        + (f" ({holder})" if holder else "")
                        + ": wait for it, or choose a different `--output`"
                    ]
                ) from None
            except OSError as error:
                os.close(self._file)
                raise ConfigError([f"{folder} cannot be locked: {error.strerror}"]) from None
            # The previous holder removed the file, and another process may have created it again.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    break
            os.close(self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    @property
    def created_folder(self) -> bool:
        """Whether the folder did not exist before."""
        return bool(self._created)

    def release(self) -> None:
        """Releases the lock; removes the folders that it created, if they are still empty."""
        try:
            with suppress(OSError):
                os.unlink(self._path)
        finally:
            os.close(self._file)
        _remove(self._created)


def _make(folder: Path) -> list[Path]:
    """Creates a folder and its parents; returns the ones that did not exist, innermost first."""
    created: list[Path] = []
    for path in (*reversed(folder.parents), folder):
        try:
            path.mkdir()
            created.insert(0, path)
        except FileExistsError:
            continue
        except OSError:
            if not os.path.isdir(path):  # nor a parent on a read-only file system
                _remove(created)
                raise
    return created


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something was written to it
            folder.rmdir()
