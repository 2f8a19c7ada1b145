"""Folders that are written completely or not at all, and verified when they are read.

A folder is written beside its target, flushed to disk, listed in a manifest, renamed to the target,
and verified. Only then is its predecessor removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from objdsl.errors import ObjdslError
from objdsl.files import sync_folder

DAMAGED = "damaged-"
LEFT = "left-"
MANIFEST = "manifest.json"
# The version of manifests, and of the checkpoints that have one.
VERSION = 2

# Prefixes of folders while they are written or removed; a killed run may leave them.
_WRITING = ".writing-"
_REMOVING = ".removing-"
# Files that transformers might read although they are not in the manifest.
_READ = frozenset({".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors", ".txt"})


class CheckpointError(ObjdslError, RuntimeError):
    """A checkpoint that cannot be resumed from."""


class SaveError(CheckpointError, OSError):
    """A checkpoint that cannot be written. Earlier ones are unchanged."""


class DamagedError(CheckpointError):
    """A folder that differs from what was written.

    Attributes:
        path: the folder.
        damage: the file, and what is wrong with it.
    """

    def __init__(self, path: Path, damage: str) -> None:
        self.path = path
        self.damage = damage
        super().__init__(f"{path} is damaged: {damage}")


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `target`, with a manifest, once it is complete.

    An existing `target` is replaced: it is removed once the new one has been verified.

    Raises SaveError if the folder cannot be written; no part of it remains.
    """
    writing = target.with_name(f"{_WRITING}{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        yield writing
        _seal(writing)
        old = set_aside(target, LEFT) if target.exists() else None
        os.rename(writing, target)
        sync_folder(target.parent)
        check_files(target)
        if old is not None:
            remove(old)
    except Exception as error:  # each library has its own classes
        shutil.rmtree(writing, ignore_errors=True)
        if isinstance(error, DamagedError):
            with suppress(OSError):
                set_aside(target, DAMAGED)
        raise SaveError(
            f"{target} cannot be written: {_reason(error)}; earlier files are unchanged"
        ) from error
    except BaseException:  # a second Ctrl-C
        shutil.rmtree(writing, ignore_errors=True)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, DamagedError):
        return error.damage
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _seal(folder: Path) -> None:
    """Flushes all files of a folder to the disk, and writes their manifest."""
    files: dict[str, dict[str, Any]] = {}
    for path in _files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": digest,
        }
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        json.dump({"version": VERSION, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_folder(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """Removes a folder, under a different name, in case the process is killed meanwhile."""
    removing = folder.with_name(f"{_REMOVING}{folder.name}")
    with suppress(OSError):
        os.rename(folder, removing)
        shutil.rmtree(removing)


def set_aside(path: Path, prefix: str) -> Path:
    """Renames a folder that is no longer in use; returns its new path."""
    number, other = 1, path.with_name(f"{prefix}{path.name}")
    while other.exists():
        number += 1
        other = path.with_name(f"{prefix}{path.name}-{number}")
    os.rename(path, other)
    sync_folder(path.parent)
    return other


def sweep(folder: Path) -> None:
    """Removes folders that a killed run was writing or removing."""
    for path in folder.glob(".*"):
        if path.name.startswith((_WRITING, _REMOVING)):
            shutil.rmtree(path, ignore_errors=True)


# --- reading -------------------------------------------------------------------------------------


def check_files(folder: Path) -> None:
    """Compares all files of a folder with its manifest.

    Raises:
        DamagedError: names the first file that is missing or has changed.
        CheckpointError: no permission to read a file.
    """
    files = read_json(folder, MANIFEST).get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedError(folder, f"{MANIFEST} lists no files")
    for name, entry in files.items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            raise DamagedError(folder, f"{MANIFEST} has no size and digest of {name}")
        with reading(folder, name), open(folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == entry["bytes"]:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        if size == 0 and entry["bytes"]:
            raise DamagedError(folder, f"{name} is empty")
        if size != entry["bytes"]:
            raise DamagedError(
                folder, f"{name} has {size} bytes, and had {entry['bytes']} when it was written"
            )
        if digest != entry["sha256"]:
            raise DamagedError(
                folder, f"the content of {name} is not what was written (its SHA-256 differs)"
            )
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in files and name != MANIFEST and path.suffix in _READ:
            raise DamagedError(folder, f"{name} was not written with it")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    with reading(folder, name):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DamagedError(folder, f"{name} is not what was written")
    return content


@contextmanager
def reading(folder: Path, name: str) -> Iterator[None]:
    """Turns errors while a file is read into DamagedError."""
    try:
        yield
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from None
    except FileNotFoundError:
        raise DamagedError(folder, f"{name} is missing") from None
    except Exception as error:  # each library has its own classes
        raise DamagedError(folder, f"{name} cannot be read: {_reason(error)}") from None
