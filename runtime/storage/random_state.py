"""The states of the global random generators, which a checkpoint stores."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """The states of the generators of Python, NumPy and torch, which `torch.save` can store."""
    kind, numbers, *rest = random.getstate()
    name, keys, *numpy_rest = np.random.get_state(legacy=True)
    state = {
        "python": [kind, list(numbers), *rest],
        "numpy": [name, [int(key) for key in keys], *(float(x) for x in numpy_rest)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Restores the generators to a state that `capture` returned."""
    kind, numbers, *rest = state["python"]
    random.setstate((kind, tuple(numbers), *rest))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
