"""What other frameworks compute: their configurations as objectives in the language."""

from __future__ import annotations

from objdsl.frameworks.reading import PREFIXES, configured, from_config, is_configuration

__all__ = ["PREFIXES", "configured", "from_config", "is_configuration"]
