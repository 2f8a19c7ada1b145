"""dpo: Direct Preference Optimization, arXiv:2305.18290, eq. 7"""

import torch


def group_sum(x, segment, groups):
    """Sums within each group: `[n, ...]` to `[groups, ...]`."""
    return x.new_zeros(groups, *x.shape[1:]).index_add_(0, segment, x)


def prepare(*, beta, chosen, dtype, prompt, n_prompts, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    is_chosen = chosen != 0
    n_chosen = group_sum(is_chosen.to(dtype), prompt, n_prompts)
    n_not_chosen = group_sum((~is_chosen).to(dtype), prompt, n_prompts)
    return {
        "beta_per_chosen": (beta / n_chosen)[prompt],
        "beta_per_not_chosen": (beta / n_not_chosen)[prompt],
        "n_chosen": n_chosen[prompt],
        "n_chosen_clipped": n_chosen.clamp(min=1)[prompt],
        "n_not_chosen": n_not_chosen[prompt],
        "n_not_chosen_clipped": n_not_chosen.clamp(min=1)[prompt],
        "divisor": (n_prompts * group_size)[prompt],
    }


def couple(
    *,
    beta, chosen, log_pi, log_ref, mask, prompt, n_prompts, n_chosen_clipped, n_not_chosen_clipped,
    divisor, dtype, n_chosen, n_not_chosen,
):
    """What couples responses through the current policy, once for the whole step."""
    is_chosen = chosen != 0
    h = torch.where(mask, log_pi - log_ref, 0.0).sum(-1)
    h_sum_chosen = group_sum(torch.where(is_chosen, h, 0), prompt, n_prompts)
    h_sum_not_chosen = group_sum(torch.where(~is_chosen, h, 0), prompt, n_prompts)
    margin = h_sum_chosen / n_chosen_clipped - h_sum_not_chosen / n_not_chosen_clipped
    beta_times_margin = beta * margin
    sigmoid_times_beta = (-beta_times_margin).sigmoid() * beta
    return {
        "J_terms": (torch.nn.functional.logsigmoid(beta_times_margin) / divisor)[prompt],
        "accuracy_terms": ((margin > 0).to(dtype) / divisor)[prompt],
        "sigmoid_times_beta_per_chosen": (sigmoid_times_beta / n_chosen)[prompt],
        "sigmoid_times_beta_per_not_chosen": (sigmoid_times_beta / n_not_chosen)[prompt],
    }


def objective(
    *,
    J_terms, chosen, sigmoid_times_beta_per_chosen, sigmoid_times_beta_per_not_chosen, n_prompts,
    mask, accuracy_terms, beta_per_chosen, log_pi, log_ref, beta_per_not_chosen,
):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    J = J_terms.sum()
    is_chosen = chosen != 0
    not_chosen = ~is_chosen
    sigmoid_times_beta_scaled_masked = torch.where(not_chosen, sigmoid_times_beta_per_not_chosen, 0)
    masked_quotient_difference = (
        torch.where(is_chosen, sigmoid_times_beta_per_chosen, 0)
        - sigmoid_times_beta_scaled_masked
    )
    w = masked_quotient_difference / n_prompts
    weights = {"log_pi": torch.where(mask, w[:, None], 0.0)}
    log_ratio = log_pi - log_ref
    log_ratio_scaled_if_chosen = torch.where(
        is_chosen[:, None], beta_per_chosen[:, None] * log_ratio, 0
    )
    log_ratio_scaled_if_not_chosen = torch.where(
        not_chosen[:, None], beta_per_not_chosen[:, None] * log_ratio, 0
    )
    margin_terms = (log_ratio_scaled_if_chosen - log_ratio_scaled_if_not_chosen) / n_prompts
    reports = {
        "accuracy": accuracy_terms.sum(),
        "margin": torch.where(mask, margin_terms, 0.0).sum(),
    }
    return J, weights, reports
