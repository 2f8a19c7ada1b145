"""The identifiers of generated source, all of them different.

A parameter, a column or a definition may have any name that the language reads: `lambda`, `torch`,
`mask`, `group_mean`, `x_2`. Each gets an identifier here that is neither a keyword of Python nor a
name of the surrounding code: its own name if that is free. Callers of the generated code still use
the original names.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

PYTHON = frozenset({*keyword.kwlist, *dir(builtins)})
"""What an identifier must not be, or would hide."""


class Identifiers:
    """Gives out identifiers.

    Args:
        reserved: names of the surrounding code.
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self._reserved = {*PYTHON, *reserved}
        self._taken = {*self._reserved}
        self._number: dict[str, int] = {}
        self._of: dict[tuple[str, str], str] = {}

    def copy(self) -> Identifiers:
        """A copy with the identifiers so far, for the inside of a function."""
        other = Identifiers(self._reserved)
        other._taken, other._number, other._of = {*self._taken}, {**self._number}, {**self._of}
        return other

    def fresh(self, *wishes: str) -> str:
        """A new identifier: the first of the wishes that is free, or the first of all with a
        number."""
        wanted = [_spelled(wish) for wish in wishes]
        name = next((wish for wish in wanted if wish not in self._taken), None)
        if name is None:
            wish = wanted[0]
            name = f"{wish}_" if wish in self._reserved else wish
            number = self._number.get(wish, 2)
            while name in self._taken:
                name, number = f"{wish}_{number}", number + 1
            self._number[wish] = number
        self._taken.add(name)
        return name

    def take(self, names: Iterable[str]) -> None:
        """Marks identifiers as taken."""
        self._taken.update(names)

    def of(self, kind: str, key: str) -> str:
        """The identifier of an input, the same whenever it is asked for."""
        if (kind, key) not in self._of:
            self._of[kind, key] = self.fresh(key)
        return self._of[kind, key]

    def stored(self, *wishes: str) -> str:
        """The identifier of a value that is stored, under which it is known from then on."""
        name = self.fresh(*wishes)
        self._of["stored", name] = name
        return name


def _spelled(wish: str) -> str:
    wish = re.sub(r"[^0-9A-Za-z_]", "_", wish)
    return wish if wish.isidentifier() else f"x_{wish}"
