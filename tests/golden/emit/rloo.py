"""rloo: Back to Basics: REINFORCE-Style Optimization for LLMs (RLOO), arXiv:2402.14740"""

import torch


def group_sum(x, segment, many):
    """Sums within each group: `[n, ...]` to `[many, ...]`."""
    return x.new_zeros(many, *x.shape[1:]).index_add_(0, segment, x)


def prepare(*, reward, prompt, n_prompts, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    sum_reward = group_sum(reward, prompt, n_prompts)
    scale = (sum_reward[prompt] - reward) / (group_size - 1).clamp(min=1)[prompt]
    A = reward - scale
    n_responses = len(prompt)
    w = A / n_responses
    return {"A": A, "n_responses": n_responses, "w": w}


def objective(*, A, log_pi, n_responses, mask, w):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    J = torch.where(mask, A[:, None] * log_pi / n_responses, 0.0).sum()
    weights = {"log_pi": torch.where(mask, w[:, None], 0.0)}
    reports = {}
    return J, weights, reports
