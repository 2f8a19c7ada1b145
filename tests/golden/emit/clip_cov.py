"""clip_cov:
The Entropy Mechanism of RL for Reasoning LMs (Clip-Cov), arXiv:2505.22617, section 4.2"""

import torch


def group_sum(x, segment, groups):
    """Sums within each group: `[n, ...]` to `[groups, ...]`."""
    return x.new_zeros(groups, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x, segment, groups):
    """Means within each group: `[n]` to `[groups]`."""
    return group_sum(x, segment, groups) / group_sum(torch.ones_like(x), segment, groups)


def group_std(x, segment, groups, ddof):
    """Standard deviations within each group, with the sum of squares over `n - ddof`."""
    square = (x - group_mean(x, segment, groups)[segment]) ** 2
    size = group_sum(torch.ones_like(x), segment, groups)
    return (group_sum(square, segment, groups) / (size - ddof)).sqrt()


def group_extreme(x, segment, groups, reduce):
    """The `amax`, `amin` or `prod` of each group."""
    start = {"amax": -torch.inf, "amin": torch.inf, "prod": 1.0}[reduce]
    out = x.new_full((groups,), start)
    return out.scatter_reduce_(0, segment, x, reduce, include_self=True)


def fraction_of(size, fraction, slack):
    """A fraction of sizes, with what rounding may have taken from it, or added if `slack` is -1."""
    noise = torch.finfo(fraction.dtype).eps if isinstance(fraction, torch.Tensor) else 0.0
    return size.double() * fraction * (1 + slack * noise) + slack * 1e-9


def pick_mask(chosen, noise, segment, groups, fraction):
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


def pick_tokens(chosen, noise, mask, segment, groups, fraction):
    """`pick_mask` of the tokens `[N, T]`, whose padding is a group of its own."""
    flat = torch.where(mask, 0 if segment is None else segment[:, None], groups).flatten()
    chosen, noise = (mask & chosen).flatten(), torch.where(mask, noise, 0.0).flatten()
    return pick_mask(chosen, noise, flat, groups + 1, fraction).view_as(mask)


def prepare(*, reward, prompt, n_prompts, length, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_mean = group_mean(reward, prompt, n_prompts)
    reward_std = group_std(reward, prompt, n_prompts, ddof=1)
    A = (reward - reward_mean[prompt]) / (reward_std + 1e-06)[prompt]
    n_tokens = length.sum()
    return {
        "A": A,
        "n_tokens": n_tokens,
        "A_centered": A - (A * length).sum() / n_tokens,
        "n_responses": len(prompt),
    }


def couple(
    *,
    A_centered, log_pi, mask, prompt, n_prompts, n_tokens, low, high, fraction, noise, n_responses,
):
    """What couples responses through the current policy, once for the whole step."""
    log_pi_centered = log_pi - torch.where(mask, log_pi, 0.0).sum(-1).sum() / n_tokens
    cov = A_centered[:, None] * log_pi_centered
    drop = pick_tokens((cov > low) & (cov < high), noise, mask, None, 1, fraction)
    cov_max = group_extreme(torch.where(mask, cov, -torch.inf).amax(-1), prompt, n_prompts, "amax")
    return {"drop": drop, "cov_max_terms": cov_max.amax() / n_responses}


def objective(*, drop, log_pi, log_old, A, eps, n_tokens, mask, dtype, cov_max_terms, length):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    not_drop = ~drop
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(r * A[:, None], torch.clamp(r, 1 - eps, 1 + eps) * A[:, None])
    J = torch.where(mask, torch.where(not_drop, surrogate, 0) / n_tokens, 0.0).sum()
    clipped = (A > 0)[:, None] & (r > 1 + eps) | (A < 0)[:, None] & (r < 1 - eps)
    active = ~clipped
    w = torch.where(active & not_drop, A[:, None] * r, 0) / n_tokens
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    reports = {
        "dropped": torch.where(mask, drop.to(dtype) / n_tokens, 0.0).sum(),
        "cov_max": len(length) * cov_max_terms,
    }
    return J, weights, reports
