"""What a rank of test_ranks.py does: a module of its own, which a fresh process can import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from test_fused import PARAMS, prepared, scene

import objdsl

NAMES = ("grpo", "dapo", "gspo", "dr_grpo", "deepseek_v32", "kl_exact", "ppo")
# The rows of each rank: ragged, in any order, and one rank with nothing to do.
SHARES = {"ragged": ([0, 3, 4, 6, 7], [1, 2, 5]), "idle": (list(range(8)), [])}


def evaluate(name: str, rows: list[int] | None) -> dict[str, Any]:
    """The value, the gradients and the reports of some rows of the step, by the fused head."""
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    pick = torch.arange(8) if rows is None else torch.tensor(rows, dtype=torch.long)
    leaves = {k: data[k].clone().requires_grad_() for k in ("weight", "bias")}
    trained = {k: x.detach()[pick].requires_grad_() for k, x in others.items()}
    out = objective.fused(
        data["hidden"][pick], leaves["weight"], data["tokens"][pick],
        step if rows is None else step[pick], bias=leaves["bias"], **trained,
    )  # fmt: skip
    out.loss.backward()
    return {"value": out.value, **{k: x.grad for k, x in leaves.items()}, **out.reports}


def work(rank: int, port: int, share: str, folder: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = {}
    for name in NAMES:
        found[name] = evaluate(name, SHARES[share][rank])
        for x in found[name].values():
            dist.all_reduce(x)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
