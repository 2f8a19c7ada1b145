"""Bytes to text: `.obj` is the suffix of two other formats, and a file may come from anyone."""

from __future__ import annotations

from pathlib import Path

from objdsl.diagnostic import ObjectiveError
from objdsl.source import Source


def read(path: str | Path) -> Source:
    return Source(str(path), Path(path).read_text(encoding="utf-8"))


def verify(source: Source) -> None:
    pass
