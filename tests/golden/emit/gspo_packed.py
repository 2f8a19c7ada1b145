"""gspo: Group Sequence Policy Optimization, arXiv:2507.18071, eq. 5, the ratio of eq. 7"""

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


def prepare(*, reward, prompt, n_prompts, group_size, length):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    mean_reward = group_mean(reward, prompt, n_prompts)
    std_reward = group_std(reward, prompt, n_prompts, ddof=1)
    A = (reward - mean_reward[prompt]) / (std_reward + 1e-06)[prompt]
    divisor = n_prompts * group_size
    return {
        "A": A,
        "divisor": divisor[prompt],
        "n_responses": len(prompt),
        "divisor_2": divisor[prompt] * length,
    }


def objective(
    *,
    log_pi, log_old, length, row, A, eps_low, eps_high, divisor, divisor_2, dtype, n_responses,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    s = (group_sum(log_pi - log_old, row, len(length)) / length).exp()
    surrogate = torch.minimum(s * A, torch.clamp(s, 1 - eps_low, 1 + eps_high) * A)
    J = (surrogate / divisor).sum()
    x = s > 1 + eps_high
    x_2 = s < 1 - eps_low
    active = ~((A > 0) & x | (A < 0) & x_2)
    w = torch.where(active, A * s, 0) / divisor_2
    weights = {"log_pi": w[row]}
    reports = {
        "clip_fraction": ((x_2 | x).to(dtype) / n_responses).sum(),
    }
    return J, weights, reports
