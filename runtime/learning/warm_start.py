"""Supervised training on worked examples, for a model with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from objdsl.runtime.data.prompts import Prompt
from objdsl.runtime.data.tasks import Task
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.settings.config import WarmStartSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def warm_start(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: Sequence[Prompt],
    config: WarmStartSection,
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    """Trains on the worked examples of `task` for `steps` steps of AdamW.

    Args:
        progress: called with the step, from 1, and the loss in nats per token.
    """
    if steps == 0 or task.demonstrate is None:
        return
    rng = random.Random(f"{seed}/warm start")
    end = [int(tokenizer.eos_token_id)]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.lr, weight_decay=0.0, fused=True)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 50) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        chosen = [prompts[rng.randrange(len(prompts))] for _ in range(config.batch)]
        answers = [
            tokenizer(task.demonstrate(prompt.example, rng), add_special_tokens=False)["input_ids"]
            for prompt in chosen
        ]
        rows = [[*p.tokens, *answer, *end] for p, answer in zip(chosen, answers, strict=True)]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        targets = torch.full_like(tokens, -100)
        for k, (row, prompt) in enumerate(zip(rows, chosen, strict=True)):
            tokens[k, : len(row)] = torch.tensor(row)
            targets[k, len(prompt.tokens) : len(row)] = tokens[k, len(prompt.tokens) : len(row)]
        logits = policy.model(input_ids=tokens[:, :-1].to(policy.device), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten().to(policy.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, float(loss.detach()))
