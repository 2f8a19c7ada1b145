"""The work of each of the two processes of tests/adapters/test_trl.py."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import objdsl
from helpers import tiny_model
from helpers.two_processes import group_of_two


def work(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1")  # accelerate asks for it, and then takes our group
    # As in test_trl.py.
    import_module("trl.import_utils").is_vllm_available = lambda min_version=None: False
    with group_of_two(rank, folder):
        for name in ("kl_cov", "decoupled_ppo"):
            of_two_ranks(name, folder)


def of_two_ranks(name: str, folder: Path) -> None:
    """Groups lie on both ranks, and each computes its rows in two micro-batches: the mean of their
    gradients, which DDP takes, is the gradient of the step of all rows."""
    from trl import GRPOConfig

    from objdsl.adapters.trl import ObjectiveTrainer

    objective = objdsl.load(name)
    options: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_generations": 8,
        "max_steps": 1,
    }
    trainer = ObjectiveTrainer(
        objective,
        model=tiny_model.model(),
        reward_funcs=tiny_model.score,
        args=GRPOConfig(**tiny_model.settings(folder, **options)),
        train_dataset=tiny_model.data(),
        processing_class=tiny_model.tokenizer(),
    )
    steps = tiny_model.prepared_steps(trainer)
    trainer.current_gradient_accumulation_steps = 2
    rows = [{"prompt": tiny_model.PROMPTS[0]} for _ in range(4)]
    trainer.model.train()
    loss = torch.zeros(())
    for number in range(2):
        trainer._step = number
        value = trainer.compute_loss(trainer.model, trainer._prepare_inputs(rows))
        value.backward()
        loss += value.detach()
    dist.all_reduce(loss)
    for weight in trainer.model.parameters():
        dist.all_reduce(weight.grad)

    columns = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    batch = {key: gathered([part[key] for part in trainer._buffered_inputs]) for key in columns}
    answers = [part["objective.reward"] for part in trainer._buffered_inputs]
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].size(1)
    log_pi = trainer._get_per_token_logps_and_entropies(trainer.model, tokens, seen, width)[0]
    now = log_pi.detach()
    out = objective(
        log_pi=log_pi,
        log_old=now,
        log_mu=now,
        reward=gathered(answers),
        prompt=torch.zeros(8, dtype=torch.long),
        mask=batch["completion_mask"],
    )
    assert steps[0].environment["group_size"].tolist() == [8]
    torch.testing.assert_close(loss / 2, out.loss.detach(), rtol=1e-5, atol=1e-6)
    summed = {key: x.grad / 2 for key, x in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    out.loss.backward()
    largest = max(float(x.grad.abs().max()) for x in trainer.model.parameters())
    assert largest > 0
    for key, x in trainer.model.named_parameters():
        torch.testing.assert_close(summed[key], x.grad, rtol=1e-5, atol=1e-5 * largest)
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.train()  # under DDP
    assert "loss" in trainer.state.log_history[0]


def gathered(parts: list[Tensor]) -> Tensor:
    """The rows of both ranks, padded to the same width."""
    local = torch.cat(parts)
    width = torch.tensor(local.size(1) if local.dim() > 1 else 0)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    if local.dim() > 1:
        local = torch.nn.functional.pad(local, (0, int(width) - local.size(1)))
    pieces = [torch.empty_like(local) for _ in range(2)]
    dist.all_gather(pieces, local)
    return torch.cat(pieces)
