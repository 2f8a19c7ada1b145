"""A step of random responses, for the tests of the learner."""

from __future__ import annotations

import random

import torch

from objdsl.runtime.engines.batch import Batch, collate
from objdsl.runtime.engines.sampler import Response


def batch(kept: bool = False, masked: bool = False, groups: int = 4, group: int = 3) -> Batch:
    """Ragged prompts and responses of random tokens, with rewards.

    Args:
        masked: whether some of the tokens are not learned from.
    """
    rng = random.Random(0)
    prompts: list[list[int]] = []
    for _ in range(groups):
        prompt = [rng.randrange(3, 15) for _ in range(rng.randint(2, 6))]
        prompts += [prompt] * group
    responses = []
    for _ in prompts:
        tokens = tuple(rng.randrange(2, 15) for _ in range(rng.randint(1, 5)))
        left = tuple((*rng.sample(range(15), 4), token) for token in tokens) if kept else None
        log_probs = tuple(-2 - rng.random() for _ in tokens)
        responses.append(Response(tokens, log_probs, rng.random() < 0.2, left))
    rewards = [float(rng.random() < 0.5) for _ in prompts]
    learned = [sorted(rng.sample(range(len(x.tokens)), -(-len(x.tokens) // 2))) for x in responses]
    return collate(
        prompts,
        [k for k in range(groups) for _ in range(group)],
        responses,
        {"reward": rewards},
        learned=learned if masked else None,
        vocabulary=15,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
