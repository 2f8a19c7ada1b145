"""The cost of a computation, counted and not timed: the same on every machine.

Fake tensors have shapes and dtypes but no data. With them, models can be counted that would fit
into no memory here, on devices that are not present.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::addmm_"})
# They touch only the numbers that they read or write, not the whole tensor.
_TAKE = frozenset({"aten::gather", "aten::index", "aten::index_select"})
_PUT = frozenset({"aten::scatter_add_", "aten::index_put_"})
_RESERVE = frozenset({"aten::empty", "aten::empty_like", "aten::new_empty"})


class Counts(TorchDispatchMode):
    """Counts what happens inside of it, operation by operation.

        with Counts() as counts:
            objective.fused(hidden, weight, tokens, step).loss.backward()

    Attributes:
        multiplied: multiplications of matrix products, by the type that they read.
        moved: bytes that operations read and wrote, if none is fused with another.
        now, peak: bytes alive, and the most at once, of the tensors made or read as a leaf inside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiplied: Counter[torch.dtype] = Counter()
        self.moved = self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        name = func._schema.name
        if name in _PRODUCTS:
            a, b = [x for x in args if isinstance(x, Tensor)][-2:]
            self.multiplied[a.dtype] += a.shape[0] * a.shape[1] * b.shape[1]
        self.moved += self._moved(name, func.is_view, read, written)
        for x in written:
            self._hold(x.untyped_storage())
        return out

    def units(self, tokens: int, hidden: int, vocabulary: int) -> dict[torch.dtype, float]:
        """Matrix products in units of tokens x hidden x vocabulary, by dtype."""
        return {dtype: n / (tokens * hidden * vocabulary) for dtype, n in self.multiplied.items()}

    def _moved(self, name: str, view: bool, read: list[Tensor], written: list[Tensor]) -> int:
        if view or name in _RESERVE:
            return 0
        if name in _TAKE:
            return 2 * _bytes(written)
        if name in _PUT:
            return 2 * _bytes(read[-1:])
        return _bytes(read) + _bytes(written)

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
