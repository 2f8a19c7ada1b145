"""Configurations with mistakes, and the errors that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from objdsl.errors import ObjectiveError
from objdsl.render.terminal import render


def errors_of(texts: Mapping[str, str], read: Callable[[Path, str], object], folder: Path) -> str:
    """The errors of reading each text, under its title."""
    shown = []
    for title, text in texts.items():
        with pytest.raises(ObjectiveError) as caught:
            read(folder, text)
        lines = [render(diagnostic) for diagnostic in caught.value.diagnostics]
        shown.append(f"--- {title}\n" + "\n".join(lines).replace(f"{folder}/", ""))
    return "\n".join(shown) + "\n"
