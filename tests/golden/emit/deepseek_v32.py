"""deepseek_v32: DeepSeek-V3.2, arXiv:2512.02556, section 3.1: GRPO made to scale"""

import torch


def group_sum(x, segment, groups):
    """Sums within each group: `[n, ...]` to `[groups, ...]`."""
    return x.new_zeros(groups, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x, segment, groups):
    """Means within each group: `[n]` to `[groups]`."""
    return group_sum(x, segment, groups) / group_sum(torch.ones_like(x), segment, groups)


def prepare(*, reward, prompt, n_prompts, group_size, length):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_mean = group_mean(reward, prompt, n_prompts)
    A = reward - reward_mean[prompt]
    return {
        "A": A,
        "divisor": (n_prompts * group_size)[prompt] * length,
        "n_tokens": length.sum(),
        "n_responses": len(prompt),
    }


def objective(
    *,
    A, log_mu, log_pi, mask, length, delta, eps, beta, log_ref, divisor, dtype, n_tokens,
    n_responses,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    A_negative = A < 0
    log_ratio_mean_above = torch.where(mask, log_mu - log_pi, 0.0).sum(-1) / length > delta
    not_M = A_negative & log_ratio_mean_above
    M = ~not_M
    r = (log_pi - log_mu).exp()
    surrogate = torch.minimum(r * A[:, None], torch.clamp(r, 1 - eps, 1 + eps) * A[:, None])
    log_ratio = log_ref - log_pi
    ratio = log_ratio.exp()
    k3 = ratio - log_ratio - 1
    J_terms = (torch.where(M[:, None], surrogate, 0) - beta * r * k3) / divisor[:, None]
    J = torch.where(mask, J_terms, 0.0).sum()
    r_above = r > 1 + eps
    r_below = r < 1 - eps
    active = ~((A > 0)[:, None] & r_above | A_negative[:, None] & r_below)
    difference = torch.where(active & M[:, None], A[:, None], 0) - k3 * beta - beta * (1 - ratio)
    w = r * difference / divisor[:, None]
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    reports = {
        "clip_fraction": torch.where(mask, (r_below | r_above).to(dtype) / n_tokens, 0.0).sum(),
        "masked": (not_M.to(dtype) / n_responses).sum(),
        "kl_ref": torch.where(mask, r * k3 / n_tokens, 0.0).sum(),
    }
    return J, weights, reports
