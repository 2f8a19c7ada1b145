"""Losses as people write them, in plain PyTorch, each with switches for a planted difference.

They are written from the papers, and not from the files of the gallery.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def _same(prompt: Tensor) -> Tensor:
    """`[N, N]`, 1 where two responses answer the same prompt."""
    return (prompt[:, None] == prompt).double()


def _centred(reward: Tensor, prompt: Tensor) -> Tensor:
    same = _same(prompt)
    return reward - same @ reward / same.sum(1)


def _normalised(reward: Tensor, prompt: Tensor, eps: float, ddof: int) -> Tensor:
    same, centred = _same(prompt), _centred(reward, prompt)
    std = (same @ centred.square() / (same.sum(1) - ddof)).sqrt()
    return centred / (std + eps)


def _of_prompts(x: Tensor, prompt: Tensor) -> Tensor:
    """The mean over prompts of the mean over their responses."""
    return (x / _same(prompt).sum(1)).sum() / len(prompt.unique())


def _token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum(1) / mask.sum(1)


def _clipped(r: Tensor, A: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(r * A, r.clamp(low, high) * A)


def k3(log_pi: Tensor, log_ref: Tensor) -> Tensor:
    return (log_ref - log_pi).exp() - (log_ref - log_pi) - 1


def k2(log_pi: Tensor, log_ref: Tensor) -> Tensor:
    return (log_ref - log_pi).square() / 2


def grpo(
    log_pi: Tensor,
    log_old: Tensor,
    log_ref: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    high: float = 1.2,
    ddof: int = 1,
    eps: float = 1e-4,
    beta: float = 0.04,
    estimator: str = "k3",
) -> Tensor:
    A = _normalised(reward, prompt, eps, ddof)[:, None]
    kl = {"k2": k2, "k3": k3}[estimator](log_pi, log_ref)
    x = _clipped((log_pi - log_old).exp(), A, 0.8, high) - beta * kl
    return -_of_prompts(_token_mean(x, mask), prompt)


def dr_grpo(
    log_pi: Tensor,
    log_old: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    divisor: str = "constant",
    high: float = 1.2,
) -> Tensor:
    x = _clipped((log_pi - log_old).exp(), _centred(reward, prompt)[:, None], 0.8, high)
    x = (x * mask).sum(1) / (mask.sum(1) if divisor == "length" else 3000)
    return -_of_prompts(x, prompt)


def token_mean(
    log_pi: Tensor,
    log_old: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    micro: int = 0,
    ddof: int = 1,
    high: float = 1.28,
) -> Tensor:
    """DAPO's surrogate, averaged over the tokens of the step; or of each micro-batch."""
    A = _normalised(reward, prompt, 1e-6, ddof)[:, None]
    x = _clipped((log_pi - log_old).exp(), A, 0.8, high) * mask
    parts = list(zip(x.split(micro or len(x)), mask.split(micro or len(x)), strict=True))
    return -sum((part.sum() / m.sum() for part, m in parts), torch.zeros(())) / len(parts)


def rloo(
    log_pi: Tensor, reward: Tensor, mask: Tensor, prompt: Tensor, others: bool = True
) -> Tensor:
    size = _same(prompt).sum(1)
    A = _centred(reward, prompt) * (size / (size - 1) if others else 1)
    return -((log_pi * mask).sum(1) * A).mean()


def gspo(
    log_pi: Tensor,
    log_old: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    low: float = 3e-4,
    high: float = 4e-4,
) -> Tensor:
    s = _token_mean(log_pi - log_old, mask).exp()
    A = _normalised(reward, prompt, 1e-6, 1)
    return -_of_prompts(_clipped(s, A, 1 - low, 1 + high), prompt)


def cispo(
    log_pi: Tensor,
    log_old: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    detach: bool = True,
    high: float = 1.2,
) -> Tensor:
    r = (log_pi - log_old).exp().clamp(max=high)
    A = _normalised(reward, prompt, 1e-6, 1)[:, None]
    x = (r.detach() if detach else r) * A * log_pi * mask
    tokens = _same(prompt) @ mask.sum(1).double()
    return -(x.sum(1) / tokens).sum() / len(prompt.unique())


def ppo(
    log_pi: Tensor,
    log_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    high: float = 1.2,
    sign: float = 1.0,
) -> Tensor:
    """PPO's surrogate, averaged over tokens, with advantages that it is given."""
    x = _clipped((log_pi - log_old).exp(), advantages, 0.8, high) * mask
    return -sign * x.sum() / mask.sum()


def dpo(
    log_pi: Tensor,
    log_ref: Tensor,
    chosen: Tensor,
    mask: Tensor,
    prompt: Tensor,
    beta: float = 0.1,
    detach: bool = False,
) -> Tensor:
    h = ((log_pi - log_ref) * mask).sum(1)
    same = _same(prompt)
    best, worst = same * chosen, same * (1 - chosen)
    rejected = worst @ h / worst.sum(1)
    margins = best @ h / best.sum(1) - (rejected.detach() if detach else rejected)
    return -_of_prompts(logsigmoid(beta * margins), prompt)


def reinforce(
    log_pi: Tensor, log_ref: Tensor, reward: Tensor, mask: Tensor, estimator: str = "k3"
) -> Tensor:
    kl = {"k2": k2, "k3": k3}[estimator](log_pi, log_ref)
    x = reward[:, None] * log_pi - 0.05 * kl
    return -(x * mask).sum(1).mean()


def tis(
    log_pi: Tensor,
    log_old: Tensor,
    log_mu: Tensor,
    reward: Tensor,
    mask: Tensor,
    prompt: Tensor,
    cap: float = 2.0,
    by: str = "responses",
) -> Tensor:
    """REINFORCE with truncated importance weights."""
    w = (log_old - log_mu).exp().clamp(max=cap)
    x = (w * _centred(reward, prompt)[:, None] * log_pi * mask).sum(1)
    return -(x.mean() if by == "responses" else x.sum() / mask.sum())


# --- in other signatures -------------------------------------------------------------------------


def verl_style(old_log_prob, log_prob, advantages, response_mask, config):  # type: ignore[no-untyped-def]
    x = _clipped((log_prob - old_log_prob).exp(), advantages, 0.8, 1 + config.clip_ratio_high)
    return -(x * response_mask).sum() / response_mask.sum(), {"clip": 0.0}


def trl_style(inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs["completion_mask"]
    r = (inputs["per_token_logps"] - inputs["old_per_token_logps"]).exp()
    x = _clipped(r, inputs["advantages"][:, None], 0.8, 1.2)
    x = x - 0.04 * k3(inputs["per_token_logps"], inputs["ref_per_token_logps"])
    return -_token_mean(x, mask).mean()


def tinker_style(data, logprobs):  # type: ignore[no-untyped-def]
    total = torch.zeros((), dtype=torch.float64)
    for datum, log_pi in zip(data, logprobs, strict=True):
        inputs = {name: x.to_torch() for name, x in datum.loss_fn_inputs.items()}
        r = (log_pi - inputs["logprobs"]).exp()
        total = total - (r * inputs["advantages"] * inputs["mask"]).sum()
    return total / len(data), {}
