"""Packages that are not installed, for modules of verl that import them and are used without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Absent(ModuleType):
    """A package that is not installed, and of which nothing is used here."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def without(*packages: str) -> list[str]:
    """Lets verl import packages that serve its rollouts and datasets, where they are missing; the
    names of those that are."""
    missing = []
    for package in packages:
        try:
            __import__(package)
        except ModuleNotFoundError:
            module = _Absent(package)
            module.__spec__ = ModuleSpec(package, None)
            sys.modules[package] = module
            missing.append(package)
    return missing


@contextmanager
def for_now(*packages: str) -> Iterator[None]:
    """The same while something is imported; afterwards they are missing again."""
    missing = without(*packages)
    yield
    for package in missing:
        del sys.modules[package]
