"""rloo: Back to Basics: REINFORCE-Style Optimization for LLMs (RLOO), arXiv:2402.14740"""

import torch


def group_others(x, segment):
    """The sum of the others in each group, `[n]` to `[n]`: of those before and those after. The sum
    of all less the own would leave nothing of them beside an own one that is large."""
    order = torch.argsort(segment, stable=True)
    x, segment = x[order], segment[order]
    others = torch.empty_like(x)
    after = group_before(x.flip(0), segment.flip(0)).flip(0)
    others[order] = group_before(x, segment) + after
    return others


def group_before(x, segment):
    """The sum of what comes before each element in its group, which lies in one piece, by doubling
    reach."""
    total = torch.zeros_like(x)
    total[1:] = torch.where(segment[1:] == segment[:-1], x[:-1], 0.0)
    reach = 1
    while reach < len(x):
        total[reach:] += torch.where(segment[reach:] == segment[:-reach], total[:-reach], 0.0)
        reach *= 2
    return total


def prepare(*, reward, prompt, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_mean_of_others = group_others(reward, prompt) / (group_size - 1).clamp(min=1)[prompt]
    A = reward - reward_mean_of_others
    n_responses = len(prompt)
    w = A / n_responses
    return {"A": A, "n_responses": n_responses, "w": w}


def objective(*, A, log_pi, n_responses, mask, w):
    """The value, its derivative by each trained input, and the reports, of these rows."""
    J = torch.where(mask, A[:, None] * log_pi / n_responses, 0.0).sum()
    weights = {"log_pi": torch.where(mask, w[:, None], 0.0)}
    reports = {}
    return J, weights, reports
