"""What other frameworks compute: their configurations as objectives in the language.

Reading them is imported on use: every command asks whether a name is a configuration, and few are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objdsl.frameworks.reading import configured, from_config

__all__ = ["PREFIXES", "configured", "from_config", "is_configuration"]

PREFIXES = ("trl:", "verl:")
"""What names of configurations begin with."""


def is_configuration(name: str) -> bool:
    """Whether a name means a framework's configuration, and not a file of the language."""
    return name.startswith(PREFIXES)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from objdsl.frameworks import reading

    return getattr(reading, name)
