"""The few tensor operations that torch has no name for. Emitted code carries a copy of those that
it uses, so that it stands on its own.

`segment` gives each element the number of its group (its prompt, or its response); `groups` is the
number of groups.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_sum(x: Tensor, segment: Tensor, groups: int) -> Tensor:
    """Sums within each group: `[n, ...]` to `[groups, ...]`."""
    return x.new_zeros(groups, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x: Tensor, segment: Tensor, groups: int) -> Tensor:
    """Means within each group: `[n]` to `[groups]`."""
    return group_sum(x, segment, groups) / group_sum(torch.ones_like(x), segment, groups)


def joined(a: Tensor, b: Tensor, reduce: str) -> Tensor:
    """Two values as one: their `sum`, `prod`, `amax` or `amin`."""
    if reduce == "sum":
        return a + b
    if reduce == "prod":
        return a * b
    return torch.maximum(a, b) if reduce == "amax" else torch.minimum(a, b)


def group_others(x: Tensor, segment: Tensor, reduce: str) -> Tensor:
    """The sum (or product, or extremum) of the others in each group, `[n]` to `[n]`: of those
    before and those after. The sum of all minus the own element would cancel where that is large.
    """
    order = torch.argsort(segment, stable=True)
    x, segment = x[order], segment[order]
    others = torch.empty_like(x)
    after = group_before(x.flip(0), segment.flip(0), reduce).flip(0)
    others[order] = joined(group_before(x, segment, reduce), after, reduce)
    return others


def group_before(x: Tensor, segment: Tensor, reduce: str) -> Tensor:
    """The sum (or product, or extremum) of what comes before each element in its group, whose
    elements are adjacent: by doubling the reach."""
    none = {"sum": 0.0, "prod": 1.0, "amax": -torch.inf, "amin": torch.inf}[reduce]
    total = torch.full_like(x, none)
    total[1:] = torch.where(segment[1:] == segment[:-1], x[:-1], none)
    reach = 1
    while reach < len(x):
        further = torch.where(segment[reach:] == segment[:-reach], total[:-reach], none)
        total[reach:] = joined(total[reach:], further, reduce)
        reach *= 2
    return total


def compared_with(segment: Tensor) -> Tensor:
    """The others in the group of each element, `[n, G]`; -1 where there are no more."""
    order = torch.argsort(segment, stable=True)
    ranked = segment[order].contiguous()
    first = torch.searchsorted(ranked, segment.contiguous())
    end = torch.searchsorted(ranked, segment.contiguous(), right=True)
    size = int((end - first).max()) if len(segment) else 0
    place = first[:, None] + torch.arange(size, device=segment.device)
    others = order[place.clamp(max=max(len(order) - 1, 0))]
    element = torch.arange(len(segment), device=segment.device)[:, None]
    return torch.where((place < end[:, None]) & (others != element), others, -1)


def handed_back(x: Tensor, compared: Tensor) -> Tensor:
    """`[n, G]` of pairs as the sum, for each element, over those that are compared with it."""
    there = torch.where(compared >= 0, x, 0.0).flatten()
    return x.new_zeros(len(x)).index_add_(0, compared.clamp(min=0).flatten(), there)


def places(segment: Tensor | None, *keys: Tensor) -> Tensor:
    """How many places before each element `[n]` the first of its segment stands that shares its
    keys; of all elements, without a segment."""
    segment = torch.zeros_like(keys[0]) if segment is None else segment
    element = torch.arange(len(segment), device=segment.device)
    order = element
    for key in (*reversed(keys), segment):
        order = order[torch.argsort(key[order], stable=True)]
    new = element == 0
    for key in (*keys, segment):
        new[1:] |= key[order][1:] != key[order][:-1]
    first = order[torch.where(new, element, 0).cummax(0).values]
    return element - torch.empty_like(order).index_copy_(0, order, first)


def token_places(mask: Tensor, segment: Tensor | None, *keys: Tensor) -> Tensor:
    """`places` of the tokens `[N, T]`; every token of the padding is alone."""
    where = torch.where(mask, 0 if segment is None else segment, -1).flatten()
    flat = [torch.where(mask, key, 0.0).flatten() for key in keys]
    return torch.where(mask, places(where, *flat).view_as(mask), 0)


def alike(place: Tensor) -> Tensor:
    """A number for the elements that share their keys: where the first of them stands."""
    return torch.arange(place.numel(), device=place.device) - place.flatten()


def among(x: Tensor, place: Tensor, reduce: str) -> Tensor:
    """The sum (or product, or extremum) of the elements that share their keys, for each of them."""
    group, count = alike(place), place.numel()
    x = x.expand(place.shape).flatten()
    total = (
        group_sum(x, group, count) if reduce == "sum" else group_extreme(x, group, count, reduce)
    )
    return total[group].view(place.shape)


def others_among(x: Tensor, place: Tensor, row: Tensor, reduce: str) -> Tensor:
    """The sum (or product, or extremum) of tokens of other rows that share their keys, for each."""
    group, count = alike(place), place.numel()
    cell = alike(places(row.expand(place.shape).flatten(), group))
    x = x.expand(place.shape).flatten()
    total = group_sum(x, cell, count) if reduce == "sum" else group_extreme(x, cell, count, reduce)
    return group_others(total, group, reduce)[cell].view(place.shape)


def running_among(x: Tensor, place: Tensor, relation: str, reduce: str) -> Tensor:
    """The sum (or product, or extremum) of tokens that share their keys, up to each or from it."""
    group = alike(place)
    order = torch.argsort(group, stable=True)
    order = order if relation in ("<", "<=") else order.flip(0)
    x = x.expand(place.shape).flatten()[order]
    total = group_before(x, group[order], reduce)
    total = joined(total, x, reduce) if "=" in relation else total
    return torch.empty_like(total).index_copy_(0, order, total).view(place.shape)


def group_std(x: Tensor, segment: Tensor, groups: int, ddof: int) -> Tensor:
    """Standard deviations within each group, with the sum of squares over `n - ddof`."""
    square = (x - group_mean(x, segment, groups)[segment]) ** 2
    size = group_sum(torch.ones_like(x), segment, groups)
    return (group_sum(square, segment, groups) / (size - ddof)).sqrt()


def group_extreme(x: Tensor, segment: Tensor, groups: int, reduce: str) -> Tensor:
    """The `amax`, `amin` or `prod` of each group."""
    start = {"amax": -torch.inf, "amin": torch.inf, "prod": 1.0}[reduce]
    out = x.new_full((groups,), start)
    return out.scatter_reduce_(0, segment, x, reduce, include_self=True)


def binomial(n: Tensor, k: Tensor) -> Tensor:
    """How many sets of `k` there are of `n`; in float32, `exp(lgamma)` has five correct digits."""
    n, k, dtype = n.double(), k.double(), torch.result_type(n, k)
    inside = (k >= 0) & (k <= n)
    some, taken = torch.where(inside, n, 0.0), torch.where(inside, k, 0.0)
    left = some - taken
    sets = (torch.lgamma(some + 1) - torch.lgamma(taken + 1) - torch.lgamma(left + 1)).exp()
    whole = (some == some.floor()) & (taken == taken.floor())
    sets = torch.where(whole, sets.round(), sets).where(inside, 0.0)
    return sets.masked_fill((n < 0) | (n + k).isnan() | (n == torch.inf), torch.nan).to(dtype)


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


def decayed_sum(x: Tensor, mask: Tensor, decay: Tensor, relation: str) -> Tensor:
    """`running_sum` with a decay of each token, from it to the next: by doubling reach, too."""
    pad = torch.nn.functional.pad
    x, decay = torch.where(mask, x, 0.0), torch.where(mask, decay, 0.0)
    backward = relation in (">", ">=")
    if not backward:
        x, decay = x.flip(-1), pad(decay.flip(-1)[:, 1:], (0, 1))
    if relation in ("<", ">"):
        x = decay * pad(x[:, 1:], (0, 1))
    reach = 1
    while reach < x.shape[-1]:
        x = x + decay * pad(x[:, reach:], (0, reach))
        decay = decay * pad(decay[:, reach:], (0, reach))
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


def fraction_of(size: Tensor, fraction: float | Tensor, slack: int) -> Tensor:
    """A fraction of sizes, with what rounding may have taken from it, or added if `slack` is -1."""
    noise = torch.finfo(fraction.dtype).eps if isinstance(fraction, torch.Tensor) else 0.0
    return size.double() * fraction * (1 + slack * noise) + slack * 1e-9


def runs(new: Tensor) -> tuple[Tensor, Tensor]:
    """Where the run of each element begins and ends, of those that begin where `new` holds."""
    place = torch.arange(len(new), device=new.device)
    first = torch.where(new, place, 0).cummax(0).values
    last = torch.where(new.roll(-1), place, len(new) - 1).flip(0).cummin(0).values.flip(0)
    return first, last


def standing(
    x: Tensor, pool: Tensor | bool, segment: Tensor | int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rank of each element among those of its group that are in the pool: how many are smaller,
    how many are not larger, how many there are, and the sum of those that are not larger. NaN is
    the largest."""
    shape, pooled = x.shape, (torch.ones_like(x, dtype=torch.bool) & pool).flatten()
    segment = (torch.zeros_like(x, dtype=torch.long) + segment).flatten()
    x = torch.where(x.isnan(), torch.inf, x).flatten()
    order = torch.argsort(x, stable=True)
    order = order[torch.argsort(segment[order], stable=True)]
    x, pooled, segment = x[order], pooled[order], segment[order]
    changes = torch.ones_like(pooled)
    changes[1:] = segment[1:] != segment[:-1]
    first, last = runs(changes)
    count = pooled.long().cumsum(0)
    ahead = count - pooled.long()
    before = ahead[first]
    size = count[last] - before
    values = torch.where(pooled, x, 0.0).double()
    total = group_before(values, segment, "sum") + values
    changes[1:] |= x[1:] != x[:-1]
    first, last = runs(changes)
    out = torch.empty(4, *x.shape, dtype=total.dtype, device=x.device)
    out[:, order] = torch.stack(
        [ahead[first] - before, count[last] - before, size, total[last]]
    ).to(out)
    below, through, size, total = out.view(4, *shape)
    return below, through, size, total


def top_mask(
    x: Tensor, fraction: float | Tensor, pool: Tensor | bool, segment: Tensor | int
) -> Tensor:
    """The mask of the largest of each group, at most `fraction` of it: of elements that tie where
    that many end, none."""
    below, _, size, _ = standing(x, pool, segment)
    return pool & (size - below <= torch.floor(fraction_of(size, fraction, 1)))


def topk_mask(
    x: Tensor, count: float | Tensor, pool: Tensor | bool, segment: Tensor | int
) -> Tensor:
    """The mask of the largest of each group, at most `count` of them: of elements that tie where
    that many end, none."""
    below, _, size, _ = standing(x, pool, segment)
    return pool & (size - below <= count)


def topk_entries(x: Tensor, count: float | Tensor, pool: Tensor | bool) -> Tensor:
    """`topk_mask` along the last axis."""
    kept = torch.where(torch.ones_like(x, dtype=torch.bool) & pool, x, -torch.inf)
    taken = min(max(int(count), 0), x.shape[-1])
    if taken == x.shape[-1]:
        return kept > -torch.inf
    return kept > kept.topk(taken + 1, dim=-1).values[..., -1:]


def nucleus_entries(x: Tensor, mass: float | Tensor, pool: Tensor | bool) -> Tensor:
    """The mask along the last axis of the elements whose larger ones add up to less than `mass`."""
    kept = torch.where(torch.ones_like(x, dtype=torch.bool) & pool, x, 0.0)
    ordered = kept.sort(dim=-1, descending=True).values
    noise = 4 * torch.finfo(x.dtype).eps + 1e-9
    taken = (ordered.cumsum(-1) - ordered < mass - noise).sum(-1, keepdim=True)
    least = ordered.gather(-1, (taken - 1).clamp(min=0))
    return pool & (taken > 0) & (kept >= least)


def trim_mask(
    x: Tensor, limit: float | Tensor, pool: Tensor | bool, segment: Tensor | int
) -> Tensor:
    """The mask of as many of the smallest of each group as have a mean of at most `limit`: of
    elements that tie where they end, none. The limit gives way by what rounding may have added."""
    _, through, _, total = standing(x, pool, segment)
    noise = torch.finfo(x.dtype).eps + 1e-9
    most = torch.as_tensor(limit, dtype=total.dtype, device=x.device)
    return pool & (total / through <= most + noise * most.abs())


def rank(x: Tensor, pool: Tensor | bool, segment: Tensor | int) -> Tensor:
    """1 and how many of its group are smaller than each element."""
    return (1 + standing(x, pool, segment)[0]).to(x)


def quantile_shares(
    x: Tensor, fraction: float | Tensor, pool: Tensor | bool, segment: Tensor | int
) -> Tensor:
    """The part that each element has in a quantile of its group; elements that tie share theirs."""
    below, through, size, _ = standing(x, pool, segment)
    fraction = torch.as_tensor(fraction, dtype=size.dtype, device=x.device).clamp(0, 1)
    place = fraction * (size - 1)
    low = place.floor()
    rest = place - low
    part = torch.where((below <= low) & (low < through), 1 - rest, 0.0)
    part = part + torch.where((below <= low + 1) & (low + 1 < through), rest, 0.0)
    return torch.where(pool & (part > 0), part / (through - below), 0.0).to(x)


def pick_mask(
    chosen: Tensor, noise: Tensor, segment: Tensor | None, groups: int, fraction: float | Tensor
) -> Tensor:
    """A random part of the mask `chosen` `[n]`: those with the least noise, at most `fraction` of
    each group."""
    segment = torch.zeros_like(noise, dtype=torch.long) if segment is None else segment
    order = torch.argsort(torch.where(chosen, noise, torch.inf), stable=True)
    order = order[torch.argsort(segment[order], stable=True)]
    size = group_sum(torch.ones_like(segment), segment, groups)
    taken = torch.ceil(fraction_of(size, fraction, -1)).long().clamp(min=0)
    first = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[segment[order]]
    return chosen & (rank < taken[segment])


def pick_tokens(
    chosen: Tensor,
    noise: Tensor,
    mask: Tensor,
    segment: Tensor | None,
    groups: int,
    fraction: float | Tensor,
) -> Tensor:
    """`pick_mask` of the tokens `[N, T]`, whose padding is a group of its own."""
    flat = torch.where(mask, 0 if segment is None else segment[:, None], groups).flatten()
    chosen, noise = (mask & chosen).flatten(), torch.where(mask, noise, 0.0).flatten()
    return pick_mask(chosen, noise, flat, groups + 1, fraction).view_as(mask)
