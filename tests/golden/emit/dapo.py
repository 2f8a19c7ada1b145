"""dapo: DAPO, arXiv:2503.14476, eq. 8, with the soft overlong punishment of eq. 13"""

import torch


def group_sum(x, segment, many):
    """Sums within each group: `[n, ...]` to `[many, ...]`."""
    return x.new_zeros(many, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x, segment, many):
    """Means within each group: `[n]` to `[many]`."""
    return group_sum(x, segment, many) / group_sum(torch.ones_like(x), segment, many)


def group_std(x, segment, many, ddof):
    """Standard deviations within each group, with the sum of squares over `n - ddof`."""
    square = (x - group_mean(x, segment, many)[segment]) ** 2
    size = group_sum(torch.ones_like(x), segment, many)
    return (group_sum(square, segment, many) / (size - ddof)).sqrt()


def group_extreme(x, segment, many, reduce):
    """The `amax`, `amin` or `prod` of each group."""
    start = {"amax": -torch.inf, "amin": torch.inf, "prod": 1.0}[reduce]
    out = x.new_full((many,), start)
    return out.scatter_reduce_(0, segment, x, reduce, include_self=True)


def prepare(*, reward, prompt, n_prompts, dtype, L_max, L_cache, length, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    min_reward = group_extreme(reward, prompt, n_prompts, "amin")
    max_reward = group_extreme(reward, prompt, n_prompts, "amax")
    x = min_reward < max_reward
    scale = 1 / x.to(dtype).sum()
    R = reward + torch.clamp((L_max - L_cache - length) / L_cache, -1, 0)
    mean_R = group_mean(R, prompt, n_prompts)
    std_R = group_std(R, prompt, n_prompts, ddof=1)
    A = (R - mean_R[prompt]) / (std_R + 1e-06)[prompt]
    return {
        "x": x[prompt],
        "scale": scale,
        "A": A,
        "group_tokens": group_sum(length, prompt, n_prompts)[prompt],
        "scale_2": 1 / torch.where(x[prompt], length, 0).sum(),
        "weight": torch.where((R < reward) & x[prompt], 1 / torch.where(x, group_size, 0).sum(), 0),
        "x_2": scale * A,
    }


def objective(
    *,
    x, scale, log_pi, log_old, A, eps_low, eps_high, group_tokens, mask, x_2, scale_2, weight,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(
        r * A[:, None], torch.clamp(r, 1 - eps_low, 1 + eps_high) * A[:, None]
    )
    share = torch.where(x[:, None], scale * surrogate, 0) / group_tokens[:, None]
    J = torch.where(mask, share, 0.0).sum()
    x_3 = r > 1 + eps_high
    x_4 = r < 1 - eps_low
    active = ~((A > 0)[:, None] & x_3 | (A < 0)[:, None] & x_4)
    w = torch.where(active & x[:, None], x_2[:, None] * r, 0) / group_tokens[:, None]
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    reports = {
        "clip_fraction": torch.where(
            mask, torch.where(x[:, None] & (x_4 | x_3), scale_2, 0), 0.0
        ).sum(),
        "overlong": weight.sum(),
    }
    return J, weights, reports
