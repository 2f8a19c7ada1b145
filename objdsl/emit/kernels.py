"""The few tensor operations that torch has no name for. Emitted code carries a copy of those that
it uses, so that it stands on its own.

`segment` gives each element the number of its group (its prompt, or its response); `many` is the
number of groups.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_sum(x: Tensor, segment: Tensor, many: int) -> Tensor:
    """Sums within each group: `[n, ...]` to `[many, ...]`."""
    return x.new_zeros(many, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x: Tensor, segment: Tensor, many: int) -> Tensor:
    """Means within each group: `[n]` to `[many]`."""
    return group_sum(x, segment, many) / group_sum(torch.ones_like(x), segment, many)


def group_others(x: Tensor, segment: Tensor) -> Tensor:
    """The sum of the others in each group, `[n]` to `[n]`: of those before and those after. The sum
    of all less the own would leave nothing of them beside an own one that is large."""
    order = torch.argsort(segment, stable=True)
    x, segment = x[order], segment[order]
    others = torch.empty_like(x)
    after = group_before(x.flip(0), segment.flip(0)).flip(0)
    others[order] = group_before(x, segment) + after
    return others


def group_before(x: Tensor, segment: Tensor) -> Tensor:
    """The sum of what comes before each element in its group, which lies in one piece, by doubling
    reach."""
    total = torch.zeros_like(x)
    total[1:] = torch.where(segment[1:] == segment[:-1], x[:-1], 0.0)
    reach = 1
    while reach < len(x):
        total[reach:] += torch.where(segment[reach:] == segment[:-reach], total[:-reach], 0.0)
        reach *= 2
    return total


def group_std(x: Tensor, segment: Tensor, many: int, ddof: int) -> Tensor:
    """Standard deviations within each group, with the sum of squares over `n - ddof`."""
    square = (x - group_mean(x, segment, many)[segment]) ** 2
    size = group_sum(torch.ones_like(x), segment, many)
    return (group_sum(square, segment, many) / (size - ddof)).sqrt()


def group_extreme(x: Tensor, segment: Tensor, many: int, reduce: str) -> Tensor:
    """The `amax`, `amin` or `prod` of each group."""
    start = {"amax": -torch.inf, "amin": torch.inf, "prod": 1.0}[reduce]
    out = x.new_full((many,), start)
    return out.scatter_reduce_(0, segment, x, reduce, include_self=True)


def running_sum(x: Tensor, mask: Tensor, decay: float | Tensor, relation: str) -> Tensor:
    """The sum of `decay^|s-t| x_s` over `s R t` along the tokens of `[N, T]`, by doubling reach."""
    x = torch.where(mask, x, 0.0)
    backward = relation in (">", ">=")
    x = x if backward else x.flip(-1)
    if relation in ("<", ">"):
        x = decay * torch.nn.functional.pad(x[:, 1:], (0, 1))
    reach = 1
    while reach < x.shape[-1]:
        x = x + decay**reach * torch.nn.functional.pad(x[:, reach:], (0, reach))
        reach *= 2
    return x if backward else x.flip(-1)


def shifted(x: Tensor, mask: Tensor, by: int) -> Tensor:
    """`x` at `t + by` along the last axis of `[N, T]`, 0 outside the response."""
    x = torch.where(mask, x, 0.0)
    pad = torch.nn.functional.pad
    return pad(x[:, by:], (0, by)) if by > 0 else pad(x[:, :by], (-by, 0))


def to_rows(x: Tensor, row: Tensor, position: Tensor, like: Tensor) -> Tensor:
    """Packed tokens `[M]` as the padded matrix `[N, T]`."""
    return x.new_zeros(like.shape).index_put_((row, position), x)


def shares(size: Tensor, fraction: float | Tensor, slack: int) -> Tensor:
    """A fraction of sizes, with what rounding may have taken from it, or added if `slack` is -1."""
    noise = torch.finfo(fraction.dtype).eps if isinstance(fraction, torch.Tensor) else 0.0
    return size.double() * fraction * (1 + slack * noise) + slack * 1e-9


def top_mask(x: Tensor, segment: Tensor | None, many: int, fraction: float | Tensor) -> Tensor:
    """The mask `[n]` of the largest of each group, at most `fraction` of it: of elements that tie
    where that many end, none."""
    segment = torch.zeros_like(x, dtype=torch.long) if segment is None else segment
    order = torch.argsort(x, descending=True, stable=True)
    order = order[torch.argsort(segment[order], stable=True)]
    size = group_sum(torch.ones_like(segment), segment, many)
    taken = torch.floor(shares(size, fraction, 1)).long().clamp(min=0)
    first = size.cumsum(0) - size
    left = x[order][(first + taken).clamp(max=max(len(x) - 1, 0))]
    return (x > left[segment]) | (taken >= size)[segment]


def top_tokens(
    x: Tensor, mask: Tensor, segment: Tensor | None, many: int, fraction: float | Tensor
) -> Tensor:
    """`top_mask` of the tokens `[N, T]`, whose padding is a group of its own."""
    flat = torch.where(mask, 0 if segment is None else segment[:, None], many).flatten()
    x = torch.where(mask, x, 0.0).flatten()
    return top_mask(x, flat, many + 1, fraction).view_as(mask) & mask


def pick_mask(
    chosen: Tensor, noise: Tensor, segment: Tensor | None, many: int, fraction: float | Tensor
) -> Tensor:
    """A random part of the mask `chosen` `[n]`: those with the least noise, at most `fraction` of
    each group."""
    segment = torch.zeros_like(noise, dtype=torch.long) if segment is None else segment
    order = torch.argsort(torch.where(chosen, noise, torch.inf), stable=True)
    order = order[torch.argsort(segment[order], stable=True)]
    size = group_sum(torch.ones_like(segment), segment, many)
    taken = torch.ceil(shares(size, fraction, -1)).long().clamp(min=0)
    first = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[segment[order]]
    return chosen & (rank < taken[segment])


def pick_tokens(
    chosen: Tensor,
    noise: Tensor,
    mask: Tensor,
    segment: Tensor | None,
    many: int,
    fraction: float | Tensor,
) -> Tensor:
    """`pick_mask` of the tokens `[N, T]`, whose padding is a group of its own."""
    flat = torch.where(mask, 0 if segment is None else segment[:, None], many).flatten()
    chosen, noise = (mask & chosen).flatten(), torch.where(mask, noise, 0.0).flatten()
    return pick_mask(chosen, noise, flat, many + 1, fraction).view_as(mask)
