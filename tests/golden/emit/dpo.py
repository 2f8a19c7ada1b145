"""dpo: Direct Preference Optimization, arXiv:2305.18290, eq. 7"""

import torch


def group_sum(x, segment, many):
    """Sums within each group: `[n, ...]` to `[many, ...]`."""
    return x.new_zeros(many, *x.shape[1:]).index_add_(0, segment, x)


def prepare(*, beta, chosen, dtype, prompt, n_prompts, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    x_3 = chosen != 0
    kept_group_size = group_sum(x_3.to(dtype), prompt, n_prompts)
    kept_group_size_2 = group_sum((~x_3).to(dtype), prompt, n_prompts)
    return {
        "scale": (beta / kept_group_size)[prompt],
        "scale_2": (beta / kept_group_size_2)[prompt],
        "kept_group_size": kept_group_size[prompt],
        "x": kept_group_size.clamp(min=1)[prompt],
        "kept_group_size_2": kept_group_size_2[prompt],
        "x_2": kept_group_size_2.clamp(min=1)[prompt],
        "divisor": (n_prompts * group_size)[prompt],
    }


def couple(
    *,
    beta, chosen, log_pi, log_ref, mask, prompt, n_prompts, x, x_2, divisor, dtype, kept_group_size,
    kept_group_size_2,
):
    """What couples responses through the current policy, once for the whole step."""
    x_3 = chosen != 0
    h = torch.where(mask, log_pi - log_ref, 0.0).sum(-1)
    sum_x = group_sum(torch.where(x_3, h, 0), prompt, n_prompts)
    sum_x_2 = group_sum(torch.where(~x_3, h, 0), prompt, n_prompts)
    margin = sum_x / x - sum_x_2 / x_2
    x_4 = beta * margin
    x_5 = (-x_4).sigmoid() * beta
    return {
        "share": (torch.nn.functional.logsigmoid(x_4) / divisor)[prompt],
        "share_2": ((margin > 0).to(dtype) / divisor)[prompt],
        "share_3": (x_5 / kept_group_size)[prompt],
        "share_4": (x_5 / kept_group_size_2)[prompt],
    }


def objective(
    *,
    share, chosen, share_3, share_4, n_prompts, mask, share_2, scale, log_pi, log_ref, scale_2,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    J = share.sum()
    x_3 = chosen != 0
    keep = ~x_3
    w = (torch.where(x_3, share_3, 0) - torch.where(keep, share_4, 0)) / n_prompts
    weights = {"log_pi": torch.where(mask, w[:, None], 0.0)}
    x_4 = log_pi - log_ref
    x_5 = (
        torch.where(x_3[:, None], scale[:, None] * x_4, 0)
        - torch.where(keep[:, None], scale_2[:, None] * x_4, 0)
    )
    reports = {
        "accuracy": share_2.sum(),
        "margin": torch.where(mask, x_5 / n_prompts, 0.0).sum(),
    }
    return J, weights, reports
