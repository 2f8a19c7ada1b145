"""Mathematical answers, compared by math-verify: `1/2` is `\\frac{2}{4}` is `0.5`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from objdsl.runtime.settings.config import ConfigError


def check_installed() -> None:
    """Raises ConfigError without math-verify."""
    try:
        import_module("math_verify")
    except ImportError as error:
        raise ConfigError(
            [
                "rewards: `math_verify` needs the package math-verify, which pip installs as "
                f"`objdsl[math]` ({error})"
            ]
        ) from None


def equivalent(*, completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the last expression of the response, in LaTeX or plain, equals the answer.

    Raises ValueError for an answer without an expression.
    """
    library = import_module("math_verify")
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        gold = library.parse(str(right)) or library.parse(f"${right}$")
        if not gold:
            raise ValueError(f"the answer {right!r} is no mathematical expression")
        rewards.append(float(library.verify(gold, library.parse(completion))))
    return rewards
