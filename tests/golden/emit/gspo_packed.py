"""gspo: Group Sequence Policy Optimization, arXiv:2507.18071, eq. 5, the ratio of eq. 7"""

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


def prepare(*, reward, prompt, n_prompts, group_size, length):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_mean = group_mean(reward, prompt, n_prompts)
    reward_std = group_std(reward, prompt, n_prompts, ddof=1)
    A = (reward - reward_mean[prompt]) / (reward_std + 1e-06)[prompt]
    divisor = n_prompts * group_size
    return {
        "A": A,
        "divisor": divisor[prompt],
        "n_responses": len(prompt),
        "token_divisor": divisor[prompt] * length,
    }


def objective(
    *,
    log_pi, log_old, length, row, A, eps_low, eps_high, divisor, token_divisor, dtype, n_responses,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    s = (group_sum(log_pi - log_old, row, len(length)) / length).exp()
    surrogate = torch.minimum(s * A, torch.clamp(s, 1 - eps_low, 1 + eps_high) * A)
    J = (surrogate / divisor).sum()
    s_above = s > 1 + eps_high
    s_below = s < 1 - eps_low
    active = ~((A > 0) & s_above | (A < 0) & s_below)
    w = torch.where(active, A * s, 0) / token_divisor
    weights = {"log_pi": w[row]}
    reports = {
        "clip_fraction": ((s_below | s_above).to(dtype) / n_responses).sum(),
    }
    return J, weights, reports
