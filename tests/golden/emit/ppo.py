"""ppo:
Proximal Policy Optimization, arXiv:1707.06347, eq. 7; for language models arXiv:2203.02155"""

import torch


def running_sum(x, mask, decay, relation):
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


def shifted(x, mask, by):
    """`x` at `t + by` along the last axis of `[N, T]`, 0 outside the response."""
    x = torch.where(mask, x, 0.0)
    pad = torch.nn.functional.pad
    return pad(x[:, by:], (0, by)) if by > 0 else pad(x[:, :by], (-by, 0))


def prepare(
    *,
    mask, dtype, length, reward, beta, log_old, log_ref, gamma, value_old, lam, eps_v, prompt,
    n_prompts,
):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    is_last = torch.arange(1, mask.shape[1] + 1, dtype=dtype, device=mask.device) == length[:, None]
    k1 = log_old - log_ref
    rho = torch.where(is_last, reward[:, None], 0) - beta * k1
    A = running_sum(rho + gamma * shifted(value_old, mask, 1) - value_old, mask, gamma * lam, '>=')
    n_tokens = length.sum()
    return {
        "A": A,
        "A_plus_value_old": A + value_old,
        "value_old_minus_eps_v": value_old - eps_v,
        "value_old_plus_eps_v": value_old + eps_v,
        "n_tokens": n_tokens,
        "minus_quarter_per_token": -(0.25 / n_tokens),
        "minus_half_per_token": -(0.5 / n_tokens),
    }


def objective(
    *,
    log_pi, log_old, A, eps, value, A_plus_value_old, value_old_minus_eps_v, value_old_plus_eps_v,
    n_tokens, mask, minus_quarter_per_token, minus_half_per_token, dtype,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(r * A, torch.clamp(r, 1 - eps, 1 + eps) * A)
    value_difference = value - A_plus_value_old
    value_difference_squared = value_difference**2
    value_clipped = torch.clamp(value, value_old_minus_eps_v, value_old_plus_eps_v)
    value_clipped_difference = value_clipped - A_plus_value_old
    value_clipped_difference_squared = value_clipped_difference**2
    larger = torch.maximum(value_difference_squared, value_clipped_difference_squared)
    clipped_value_loss = 0.5 * larger
    J = torch.where(mask, (surrogate - clipped_value_loss) / n_tokens, 0.0).sum()
    value_in_range = (value >= value_old_minus_eps_v) & (value <= value_old_plus_eps_v)
    both = value_in_range & (value_difference_squared <= value_clipped_difference_squared)
    tie_weight = torch.where(
        value_difference_squared == value_clipped_difference_squared,
        minus_quarter_per_token,
        minus_half_per_token,
    )
    tie_weight_scaled_masked = torch.where(both, tie_weight * 2 * value_clipped_difference, 0)
    masked_product = torch.where(
        value_difference_squared >= value_clipped_difference_squared,
        tie_weight * 2 * value_difference,
        0,
    )
    w_value = tie_weight_scaled_masked + masked_product
    r_above = r > 1 + eps
    r_below = r < 1 - eps
    active = ~((A > 0) & r_above | (A < 0) & r_below)
    w_log_pi = torch.where(active, A * r, 0) / n_tokens
    weights = {"value": torch.where(mask, w_value, 0.0), "log_pi": torch.where(mask, w_log_pi, 0.0)}
    reports = {
        "clip_fraction": torch.where(mask, (r_below | r_above).to(dtype) / n_tokens, 0.0).sum(),
        "value_mean": torch.where(mask, value / n_tokens, 0.0).sum(),
        "critic_loss": torch.where(mask, clipped_value_loss / n_tokens, 0.0).sum(),
    }
    return J, weights, reports
