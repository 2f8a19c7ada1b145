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
    x_6 = torch.arange(1, mask.shape[1] + 1, dtype=dtype, device=mask.device) == length[:, None]
    k1 = log_old - log_ref
    rho = torch.where(x_6, reward[:, None], 0) - beta * k1
    A = running_sum(rho + gamma * shifted(value_old, mask, 1) - value_old, mask, gamma * lam, '>=')
    n_tokens = length.sum()
    return {
        "A": A,
        "x": A + value_old,
        "x_2": value_old - eps_v,
        "x_3": value_old + eps_v,
        "n_tokens": n_tokens,
        "x_4": -(0.25 / n_tokens),
        "x_5": -(0.5 / n_tokens),
    }


def objective(*, log_pi, log_old, A, eps, value, x, x_2, x_3, n_tokens, mask, x_4, x_5, dtype):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    r = (log_pi - log_old).exp()
    surrogate = torch.minimum(r * A, torch.clamp(r, 1 - eps, 1 + eps) * A)
    x_6 = value - x
    x_7 = x_6**2
    x_8 = torch.clamp(value, x_2, x_3) - x
    x_9 = x_8**2
    clipped_value_loss = 0.5 * torch.maximum(x_7, x_9)
    J = torch.where(mask, (surrogate - clipped_value_loss) / n_tokens, 0.0).sum()
    x_10 = torch.where(x_7 == x_9, x_4, x_5)
    x_11 = torch.where((value >= x_2) & (value <= x_3) & (x_7 <= x_9), x_10 * 2 * x_8, 0)
    w_value = x_11 + torch.where(x_7 >= x_9, x_10 * 2 * x_6, 0)
    x_12 = r > 1 + eps
    x_13 = r < 1 - eps
    active = ~((A > 0) & x_12 | (A < 0) & x_13)
    w_log_pi = torch.where(active, A * r, 0) / n_tokens
    weights = {"value": torch.where(mask, w_value, 0.0), "log_pi": torch.where(mask, w_log_pi, 0.0)}
    reports = {
        "clip_fraction": torch.where(mask, (x_13 | x_12).to(dtype) / n_tokens, 0.0).sum(),
        "value_mean": torch.where(mask, value / n_tokens, 0.0).sum(),
        "critic_loss": torch.where(mask, clipped_value_loss / n_tokens, 0.0).sum(),
    }
    return J, weights, reports
