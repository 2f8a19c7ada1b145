"""dapo: DAPO, arXiv:2503.14476, eq. 8, with the soft overlong punishment of eq. 13"""

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


def prepare(*, reward, prompt, n_prompts, dtype, L_max, L_cache, length, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_min = group_extreme(reward, prompt, n_prompts, "amin")
    reward_max = group_extreme(reward, prompt, n_prompts, "amax")
    reward_varies = reward_min < reward_max
    per_kept_prompt = 1 / reward_varies.to(dtype).sum()
    R = reward + torch.clamp((L_max - L_cache - length) / L_cache, -1, 0)
    R_mean = group_mean(R, prompt, n_prompts)
    R_std = group_std(R, prompt, n_prompts, ddof=1)
    A = (R - R_mean[prompt]) / (R_std + 1e-06)[prompt]
    return {
        "reward_varies": reward_varies[prompt],
        "per_kept_prompt": per_kept_prompt,
        "A": A,
        "group_tokens": group_sum(length, prompt, n_prompts)[prompt],
        "per_kept_token": 1 / torch.where(reward_varies[prompt], length, 0).sum(),
        "overlong_terms": torch.where(
            (R < reward) & reward_varies[prompt],
            1 / torch.where(reward_varies, group_size, 0).sum(),
            0,
        ),
        "A_per_kept_prompt": per_kept_prompt * A,
    }


def objective(
    *,
    reward_varies, per_kept_prompt, log_pi, log_old, A, eps_low, eps_high, group_tokens, mask,
    A_per_kept_prompt, per_kept_token, overlong_terms,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(
        r * A[:, None], torch.clamp(r, 1 - eps_low, 1 + eps_high) * A[:, None]
    )
    surrogate_per_kept_prompt_masked = torch.where(
        reward_varies[:, None], per_kept_prompt * surrogate, 0
    )
    J = torch.where(mask, surrogate_per_kept_prompt_masked / group_tokens[:, None], 0.0).sum()
    r_above = r > 1 + eps_high
    r_below = r < 1 - eps_low
    active = ~((A > 0)[:, None] & r_above | (A < 0)[:, None] & r_below)
    A_per_kept_prompt_times_r_masked = torch.where(
        active & reward_varies[:, None], A_per_kept_prompt[:, None] * r, 0
    )
    w = A_per_kept_prompt_times_r_masked / group_tokens[:, None]
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    clip_fraction_terms = torch.where(
        reward_varies[:, None] & (r_below | r_above), per_kept_token, 0
    )
    reports = {
        "clip_fraction": torch.where(mask, clip_fraction_terms, 0.0).sum(),
        "overlong": overlong_terms.sum(),
    }
    return J, weights, reports
