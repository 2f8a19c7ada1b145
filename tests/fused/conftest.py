"""What tests of the fused head share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def chunks_of_any_size() -> Iterator[None]:
    """Plans have no chunks below some hundred tokens, which is more than there are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("objdsl.analysis.schedule.plan.FEWEST_TOKENS", 1)
        yield
