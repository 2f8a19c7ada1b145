"""Fixtures for tests of the fused head."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objdsl.fused.loss import FusedLoss


@pytest.fixture(scope="module")
def chunks_of_any_size() -> Iterator[None]:
    """Plans have no chunks below some hundred tokens, which is more than these tests have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedLoss, "fewest_tokens", 1)
        yield
