"""grpo: DeepSeekMath (GRPO), arXiv:2402.03300, eq. 3"""

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
    A = (reward - reward_mean[prompt]) / (reward_std + 0.0001)[prompt]
    return {"A": A, "divisor": (n_prompts * group_size)[prompt] * length, "n_tokens": length.sum()}


def objective(*, log_pi, log_old, A, eps, beta, log_ref, divisor, mask, dtype, n_tokens):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(r * A[:, None], torch.clamp(r, 1 - eps, 1 + eps) * A[:, None])
    log_ratio = log_ref - log_pi
    ratio = log_ratio.exp()
    k3 = ratio - log_ratio - 1
    J = torch.where(mask, (surrogate - beta * k3) / divisor[:, None], 0.0).sum()
    r_above = r > 1 + eps
    r_below = r < 1 - eps
    active = ~((A > 0)[:, None] & r_above | (A < 0)[:, None] & r_below)
    w = (torch.where(active, A[:, None] * r, 0) - beta * (1 - ratio)) / divisor[:, None]
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    reports = {
        "clip_fraction": torch.where(mask, (r_below | r_above).to(dtype) / n_tokens, 0.0).sum(),
    }
    return J, weights, reports
