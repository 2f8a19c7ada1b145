"""Samples that are too large for every test run: each runs some parts, `make proofs` all."""

from __future__ import annotations

from typing import Any

import pytest


def parts(many: int, taken: int) -> list[Any]:
    """The numbers of the parts; all but the first few are run with `--proofs` alone."""
    rest = [pytest.param(part, marks=pytest.mark.proof) for part in range(taken, many)]
    return [*range(taken), *rest]
