"""Files are replaced, never truncated: a new text is written beside the old one and renamed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def replace_text(path: str | Path, text: str) -> None:
    """Make a text, in UTF-8, the content of a file; see `replace_bytes`.

    Bytes of file names that are not UTF-8, which Python escapes, become those bytes again.
    """
    replace_bytes(path, text.encode("utf-8", "surrogateescape"))


def replace_bytes(path: str | Path, content: bytes) -> None:
    """Make `content` the content of a file, which may exist.

    A reader sees the old content or the new one, never a part of it, whatever happens meanwhile:
    a full disk, a kill, a crash. The permissions of the old file stay, and so does a symbolic link
    that leads to it. What is no regular file (a terminal, a pipe, /dev/stdout) is written to.

    Raises:
        OSError: the content could not be written. The old file is untouched, and nothing is left
            beside it.
    """
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if old is not None and not stat.S_ISREG(old.st_mode):
        with open(path, "wb") as stream:
            stream.write(content)
        return
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    beside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.new")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if old is not None:
            _take_over(beside, old)
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    sync_folder(target.parent)


def _take_over(path: Path, old: os.stat_result) -> None:
    """Give a new file the owner, as far as this process may, and the permissions of the old one."""
    new = path.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can: renames survive a power
    cut."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
