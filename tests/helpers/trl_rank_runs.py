"""Configurations of TRL's GRPOTrainer and RLOOTrainer on two processes, each with its own prompts,
and the objectives that are imported for two."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from helpers import tiny_model
from helpers.two_processes import group_of_two

# What TRL divides by: the tokens of all processes, a constant, those of a micro-batch, or of a
# response; statistics of the step; and the KL and the entropy beside them.
SETTINGS: list[dict[str, Any]] = [
    {"loss_type": "dapo", "beta": 0.1},
    {"loss_type": "dapo", "gradient_accumulation_steps": 2, "scale_rewards": "batch"},
    {"loss_type": "bnpo", "gradient_accumulation_steps": 2, "beta": 0.1},
    {"loss_type": "bnpo", "mask_truncated_completions": True},
    {"loss_type": "grpo", "gradient_accumulation_steps": 2, "entropy_coef": 0.05},
    {"loss_type": "dr_grpo", "multi_objective_aggregation": "normalize_then_sum"},
    {"loss_type": "cispo", "epsilon_high": 1.1, "num_iterations": 2},
    {"beta": 0.1, "normalize_advantages": True},
]


def work(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1")  # accelerate asks for it, and then takes our group
    # TRL looks whether there is a vLLM, and would take seconds to import it.
    import_module("trl.import_utils").is_vllm_available = lambda min_version=None: False
    with group_of_two(rank, folder):
        for number, settings in enumerate(SETTINGS):
            output = folder / str(number)
            output.mkdir(exist_ok=True)
            of_two_ranks(rank, number, settings, output)


def of_two_ranks(rank: int, number: int, settings: dict[str, Any], folder: Path) -> None:
    """The mean of the gradients of both ranks, which DDP takes, is that of the imported objective
    on the rows of both."""
    from helpers import trl_runs

    window = settings.get("gradient_accumulation_steps", 1)
    settings = {
        "reward_funcs": [*trl_runs.REWARDS],
        "num_generations": 4,
        "max_completion_length": 6,
        "gradient_accumulation_steps": window,
        "per_device_train_batch_size": 8 // window,
        "num_iterations": 2,
        "beta": 0.0,
        "generation_kwargs": {"suppress_tokens": [0]},
        **settings,
    }
    running = trl_runs.trainer(settings, folder)
    rows = [
        {"prompt": prompt}
        for prompt in tiny_model.PROMPTS[2 * rank : 2 * rank + 2]
        for _ in range(4)
    ]
    loss, gradients = trl_runs.theirs(running, rows)
    mean = torch.tensor(loss)
    dist.all_reduce(mean)
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    wanted = float(mean) / 2, {name: x / 2 for name, x in gradients.items()}
    parts = _of_both(running._buffered_inputs)
    actual, text = trl_runs.ours(running, settings, folder, parts, processes=2)
    trl_runs.assert_close(number, actual, wanted, f"{settings}\n{text}")


def _of_both(parts: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """The micro-batches of both ranks, with prompts and responses padded to the same widths."""
    gathered: list[Any] = [None, None]
    dist.all_gather_object(
        gathered, [{name: x for name, x in p.items() if isinstance(x, Tensor)} for p in parts]
    )
    every = [part for of_rank in gathered for part in of_rank]
    for name in every[0]:
        if every[0][name].dim() == 2:
            width = max(part[name].size(1) for part in every)
            for part in every:
                missing = width - part[name].size(1)
                left = name.startswith("prompt")
                ends = (missing, 0) if left else (0, missing)
                part[name] = torch.nn.functional.pad(part[name], ends)
    return every
