"""rloo: Back to Basics: REINFORCE-Style Optimization for LLMs (RLOO), arXiv:2402.14740"""

import torch


def joined(a, b, reduce):
    """Two values as one: their `sum`, `prod`, `amax` or `amin`."""
    if reduce == "sum":
        return a + b
    if reduce == "prod":
        return a * b
    return torch.maximum(a, b) if reduce == "amax" else torch.minimum(a, b)


def group_others(x, segment, reduce):
    """The sum (or product, or extremum) of the others in each group, `[n]` to `[n]`: of those
    before and those after. The sum of all minus the own element would cancel where that is large.
    """
    order = torch.argsort(segment, stable=True)
    x, segment = x[order], segment[order]
    others = torch.empty_like(x)
    after = group_before(x.flip(0), segment.flip(0), reduce).flip(0)
    others[order] = joined(group_before(x, segment, reduce), after, reduce)
    return others


def group_before(x, segment, reduce):
    """The sum (or product, or extremum) of what comes before each element in its group, whose
    elements are adjacent: by doubling the reach."""
    none = {"sum": 0.0, "prod": 1.0, "amax": -torch.inf, "amin": torch.inf}[reduce]
    total = torch.full_like(x, none)
    total[1:] = torch.where(segment[1:] == segment[:-1], x[:-1], none)
    reach = 1
    while reach < len(x):
        further = torch.where(segment[reach:] == segment[:-reach], total[:-reach], none)
        total[reach:] = joined(total[reach:], further, reduce)
        reach *= 2
    return total


def prepare(*, reward, prompt, group_size):
    """Everything that does not depend on the policy, once for the whole optimizer step."""
    reward_mean_of_others = group_others(
        reward, prompt, "sum"
    ) / (group_size - 1).clamp(min=1)[prompt]
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
