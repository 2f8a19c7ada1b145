"""Rows that are sharded over processes: each contributes its own, and receives those of all.

Every function is collective: all processes of the group call it, or all of them wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


def exchange(value: T, group: ProcessGroup) -> list[T]:
    """The values of all ranks, by rank; anything that can be pickled."""
    from_ranks: list[T | None] = [None] * group.size()
    dist.all_gather_object(from_ranks, value, group=group)
    return from_ranks  # type: ignore[return-value]


def gather(local: Mapping[str, Tensor], group: ProcessGroup) -> dict[str, Tensor]:
    """The rows `[n, ...]` of all ranks as one tensor, rank after rank.

    Shorter rows are padded with 0, and dtypes are promoted to a common one. Shape and dtype of a
    rank without rows do not count.

    Raises:
        ValueError: on every rank, if they do not pass tensors with the same names.
    """
    from_ranks = exchange({name: (tuple(x.shape), x.dtype) for name, x in local.items()}, group)
    for rank, described in enumerate(from_ranks):
        if described.keys() != local.keys():
            raise ValueError(
                f"rank {rank} gives {[*described]}, but rank {group.rank()} {[*local]}"
            )
    gathered = {}
    for name, x in sorted(local.items()):  # in the same order on every rank
        shapes = [described[name][0] for described in from_ranks]
        filled = [described[name] for described in from_ranks if described[name][0][0]]
        filled = filled or [from_ranks[0][name]]
        dtype = reduce(torch.promote_types, (dtype for _, dtype in filled))
        sizes = zip_longest(*(shape for shape, _ in filled), fillvalue=0)
        widest = [max(size) for size in sizes]
        # Booleans travel as bytes, which every backend knows.
        wire = torch.uint8 if dtype == torch.bool else dtype
        padded = x.new_zeros(widest, dtype=wire)
        if len(x):
            padded[tuple(slice(size) for size in x.shape)] = x.detach().to(wire)
        parts = [torch.empty_like(padded) for _ in shapes]
        dist.all_gather(parts, padded, group=group)
        rows = [part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)]
        gathered[name] = torch.cat(rows).to(dtype)
    return gathered
