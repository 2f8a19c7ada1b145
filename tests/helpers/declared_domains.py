"""Random data, moved into the domains that a file declares."""

from __future__ import annotations

from typing import Any

import numpy as np

from objdsl.ir.declarations import Domain


def nearest(domain: Domain, x: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The numbers of a closed domain that are nearest to those of `x`."""
    numbers = np.asarray(x, dtype=np.float64)
    if not domain.values:
        return numbers.clip(domain.lower, domain.upper)
    values = np.array(sorted(domain.values))
    return values[np.abs(numbers[..., None] - values).argmin(-1)]
