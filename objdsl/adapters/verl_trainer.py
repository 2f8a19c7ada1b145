"""What verl's trainer does for an objective, on the driver: it sends the loss to the workers, and
puts rows in an order in which every optimizer step has whole groups."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import torch

from objdsl.adapters.needs import UnsupportedError
from objdsl.adapters.verl_steps import ObjectiveLoss
from objdsl.objective import Objective, load


@cache
def loaded(name: str) -> Objective:
    """An objective of a loss mode: the path of a file, or a name of the gallery."""
    return load(name)


def ready(trainer: Any, objective: Objective, batch: Any) -> None:
    """Makes a trainer, its workers and a batch ready for optimizer steps of an objective."""
    workers = trainer.actor_rollout_wg
    if trainer.__dict__.get("_objective") is not objective:
        workers.set_loss_fn(ObjectiveLoss(objective))
        trainer._objective = objective
    settings = trainer.config.actor_rollout_ref
    rows = settings.actor.ppo_mini_batch_size * settings.rollout.n
    try:
        prompts, lengths = _described(batch)
        if len(prompts) == rows:
            return
        order = whole_groups(prompts, lengths, ranks=_ranks(workers), rows=rows)
    except ValueError as error:
        raise UnsupportedError(objective, "verl", [str(error)]) from None
    batch.reorder(torch.tensor(order) if hasattr(batch, "non_tensor_batch") else order)


def whole_groups(
    prompts: Sequence[Hashable | None], lengths: Sequence[int], *, ranks: int, rows: int
) -> list[int]:
    """An order of a batch in which every optimizer step has whole groups, and its ranks about as
    many tokens as one another.

    verl gives each rank a part of the batch, one after the other, and takes an equal piece of each
    part for each step.

    Args:
        prompts: `[N]`, what a row answers; None for one that only fills the batch up.
        lengths: `[N]`, tokens of the row.
        ranks: that share the batch.
        rows: of an optimizer step, on all ranks.

    Raises:
        ValueError: the groups do not fit.
    """
    groups: dict[Hashable, list[int]] = {}
    fillers: list[int] = []
    for row, prompt in enumerate(prompts):
        (fillers if prompt is None else groups.setdefault(prompt, [])).append(row)
    steps: list[list[int]] = [[] for _ in range(len(prompts) // rows)]
    for group in sorted(groups.values(), key=len, reverse=True):  # stable: else as they came
        room = next((step for step in steps if len(step) + len(group) <= rows), None)
        if room is None:
            sizes = ", ".join(map(str, sorted({len(group) for group in groups.values()})))
            raise ValueError(
                f"an optimizer step takes {rows} responses, which cuts groups of {sizes}: set "
                "actor_rollout_ref.actor.ppo_mini_batch_size to data.train_batch_size"
            )
        room.extend(group)
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for step in steps:
        while len(step) < rows:
            step.append(fillers.pop())
        for part, piece in zip(parts, _balanced(step, lengths, ranks), strict=True):
            part.extend(piece)
    return [row for part in parts for row in part]


def _balanced(rows: Sequence[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Rows of a step, an equal number of them for each rank."""
    if ranks == 1:
        return [[*rows]]
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    work = calculate_workload(torch.tensor([lengths[row] for row in rows]))
    pieces = get_seqlen_balanced_partitions(work, k_partitions=ranks, equal_size=True)
    return [[rows[k] for k in piece] for piece in pieces]


def _described(batch: Any) -> tuple[list[Hashable | None], list[int]]:
    """What each row of a batch answers, and how long it is."""
    if hasattr(batch, "non_tensor_batch"):
        lengths = batch.batch["attention_mask"].sum(-1).tolist()
        return [*batch.non_tensor_batch["uid"]], lengths
    # The trainer `v1` keeps rows in a queue, under names that say the prompt and the response, and
    # which of an agent's outputs it is.
    prompts: list[Hashable | None] = []
    for key, tag in zip(batch.keys, batch.tags, strict=True):
        prompt, _, output = key.rsplit("_", 2)
        if int(output):
            raise ValueError(
                f"the response {key} is the output number {output} of an agent, and would count "
                "as a response of its own: use an agent loop with one output"
            )
        prompts.append(None if tag.get("is_padding") else prompt)
    return prompts, [tag["seq_len"] for tag in batch.tags]


def _ranks(workers: Any) -> int:
    known = workers._dispatch_info
    if "actor" not in known:
        known["actor"] = workers._query_dispatch_info("actor")
    return int(max(known["actor"])) + 1
