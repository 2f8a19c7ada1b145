"""deepseek_v32: DeepSeek-V3.2, arXiv:2512.02556, section 3.1: GRPO made to scale"""

import torch


def group_sum(x, segment, many):
    """Sums within each group: `[n, ...]` to `[many, ...]`."""
    return x.new_zeros(many, *x.shape[1:]).index_add_(0, segment, x)


def group_mean(x, segment, many):
    """Means within each group: `[n]` to `[many]`."""
    return group_sum(x, segment, many) / group_sum(torch.ones_like(x), segment, many)


def prepare(*, reward, prompt, n_prompts, group_size, length):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    mean_reward = group_mean(reward, prompt, n_prompts)
    A = reward - mean_reward[prompt]
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
    x = A < 0
    x_2 = torch.where(mask, log_mu - log_pi, 0.0).sum(-1) / length > delta
    x_3 = x & x_2
    M = ~x_3
    r = (log_pi - log_mu).exp()
    surrogate = torch.minimum(r * A[:, None], torch.clamp(r, 1 - eps, 1 + eps) * A[:, None])
    x_4 = log_ref - log_pi
    ratio = x_4.exp()
    k3 = ratio - x_4 - 1
    share = (torch.where(M[:, None], surrogate, 0) - beta * r * k3) / divisor[:, None]
    J = torch.where(mask, share, 0.0).sum()
    x_5 = r > 1 + eps
    x_6 = r < 1 - eps
    active = ~((A > 0)[:, None] & x_5 | x[:, None] & x_6)
    x_7 = torch.where(active & M[:, None], A[:, None], 0) - k3 * beta - beta * (1 - ratio)
    w = r * x_7 / divisor[:, None]
    weights = {"log_pi": torch.where(mask, w, 0.0)}
    reports = {
        "clip_fraction": torch.where(mask, (x_6 | x_5).to(dtype) / n_tokens, 0.0).sum(),
        "masked": (x_3.to(dtype) / n_responses).sum(),
        "kl_ref": torch.where(mask, r * k3 / n_tokens, 0.0).sum(),
    }
    return J, weights, reports
