"""Checks that the two engines compute the same policy: when an engine starts, and of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from objdsl.runtime.engines.batch import collate
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.engines.sampler import Request, Sampler, SamplerError, Sampling, seed_of

# A missing layer, or an old copy of one, is a difference of 0.1 to 1 nat per token.
TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "bfloat16": 5e-2}


def disagreement(
    policy: Policy,
    sampler: Sampler,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    tokens: int = 128,
) -> float:
    """Mean |log old - log mu| over at least `tokens` sampled tokens, in nats per token."""
    # Truncation is off: the training engine ignores it unless the mask is kept.
    plain = replace(sampling, top_p=1.0, top_k=None, keep_mask=False)
    differences: list[torch.Tensor] = []
    seen = 0
    while seen < tokens:
        requests = [Request(prompt, seed_of("probe", seen, k)) for k, prompt in enumerate(prompts)]
        responses = sampler.generate(requests, plain)
        batch = collate(
            [request.prompt for request in requests],
            range(len(requests)),
            responses,
            {},
            vocabulary=policy.vocabulary,
            device=policy.device,
            dtype=torch.float32,
        )
        with torch.no_grad():
            ours = policy.columns(batch, ("log_pi",))["log_pi"]
        differences.append((ours - batch.columns["log_mu"])[batch.mask].abs())
        seen += int(batch.mask.sum())
    return float(torch.cat(differences).mean())


def probe(
    policy: Policy,
    sampler: Sampler,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    tolerance: float,
) -> float:
    """The disagreement of the engines; raises SamplerError where it is above `tolerance`."""
    difference = disagreement(policy, sampler, prompts, sampling)
    compare(difference, tolerance, sampler.name)
    return difference


def compare(difference: float, tolerance: float, name: str) -> None:
    """Raises SamplerError where the mean |log old - log mu| is above `tolerance`."""
    if not difference <= tolerance:
        raise SamplerError(
            f"{name} and the training engine disagree by {difference:.2g} nats per token on the "
            f"same weights (at most {tolerance:g} is allowed, sampler.tolerance): it does not "
            "sample from the policy that is trained, so nothing is learned from it"
        )
