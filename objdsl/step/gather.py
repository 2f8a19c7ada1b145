"""Rows that are spread over processes: each gives its own, and gets those of all.

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


def exchange(one: T, group: ProcessGroup) -> list[T]:
    """What every rank says, by rank. Anything that can be pickled."""
    said: list[T | None] = [None] * group.size()
    dist.all_gather_object(said, one, group=group)
    return said  # type: ignore[return-value]


def gather(own: Mapping[str, Tensor], group: ProcessGroup) -> dict[str, Tensor]:
    """`[n, ...]` of each rank as one tensor of all their rows, rank after rank.

    What is narrower on one rank than on another is padded with 0; of several types the widest is
    taken. A rank may have no rows, and then its width and type do not count.

    Raises:
        ValueError: on every rank, if they do not give tensors of the same names.
    """
    said = exchange({name: (tuple(x.shape), x.dtype) for name, x in own.items()}, group)
    for rank, here in enumerate(said):
        if here.keys() != own.keys():
            raise ValueError(f"rank {rank} gives {[*here]}, but rank {group.rank()} {[*own]}")
    found = {}
    for name, x in sorted(own.items()):  # in the same order on every rank
        shapes = [here[name][0] for here in said]
        filled = [here[name] for here in said if here[name][0][0]] or [said[0][name]]
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
        found[name] = torch.cat(rows).to(dtype)
    return found
