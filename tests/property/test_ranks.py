"""Random objectives over two processes: the rows of both add up to the step of one."""

from __future__ import annotations

import pytest

import proofs
from helpers.random_objectives import text

# Few seeds, as each costs two processes a step.
_PLAIN, _LEARNED = 3, 4


@pytest.mark.slow
def test_two_processes_are_one() -> None:
    learned = [seed for seed in range(200) if "\nlearn " in text(seed)]
    seeds = sorted({*range(_PLAIN), *learned[:_LEARNED]})
    assert not proofs.failures("ranks", seeds)
