"""What tests of the fused head share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objdsl.fused.loss import FusedLoss


@pytest.fixture(scope="module")
def chunks_of_any_size() -> Iterator[None]:
    """Plans have no chunks below some hundred tokens, which is more than there are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedLoss, "fewest_tokens", 1)
        yield
