"""The work of each of the two processes of tests/fused/test_ranks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import objdsl
from helpers.fused_steps import NAMES, PARAMS, prepared, scene
from helpers.gallery_steps import rows_of
from helpers.two_processes import group_of_two
from objdsl.fused import SequenceParallel

# The rows of each rank: ragged, in any order, and one rank with nothing to do.
SHARES = {"ragged": ([0, 3, 4, 6, 7], [1, 2, 5]), "idle": ([*range(8)], [])}


def evaluate(objective: objdsl.Objective, rows: list[int], **options: Any) -> dict[str, Tensor]:
    """The value, the gradients and the reports of some rows, by the fused head."""
    data, pick = scene(objective, packed=False), torch.tensor(rows, dtype=torch.long)
    columns = rows_of(data["columns"], pick)
    live = {name: columns.pop(name) for name in objective.live}
    others = {name: x.requires_grad_() for name, x in live.items() if not name.startswith("log_")}
    step = objective.prepare(
        **columns, mask=data["mask"][pick], prompt=data["rows"]["prompt"][pick],
        generator=torch.Generator().manual_seed(0), **options,
    )  # fmt: skip
    hidden, tokens = data["hidden"][pick], data["tokens"][pick]
    log_p = torch.log_softmax(hidden @ data["weight"].T + data["bias"], -1)
    chosen = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    now = {name: log_p if name.endswith("_dist") else chosen for name in objective.live}
    step = objective.couple(step, **{**now, **{k: x.detach() for k, x in others.items()}})
    leaves = {name: data[name].clone().requires_grad_() for name in ("weight", "bias")}
    out = objective.fused(hidden, leaves["weight"], tokens, step, bias=leaves["bias"], **others)
    out.loss.backward()
    gradients = {name: x.grad for name, x in leaves.items() if x.grad is not None}
    return {"value": out.value, **gradients, **out.reports}


def work(rank: int, folder: Path) -> None:
    with group_of_two(rank, folder):
        for name in NAMES:
            objective = objdsl.load(name, **PARAMS.get(name, {}))
            for share in SHARES.values():
                # In the order of the ranks, in which `pick` draws.
                whole = evaluate(objective, share[0] + share[1])
                actual = evaluate(objective, share[rank], group=dist.group.WORLD)
                assert actual.keys() == whole.keys() >= {"value", "weight", "bias"}
                for key, x in actual.items():
                    dist.all_reduce(x)
                    torch.testing.assert_close(
                        x, whole[key], rtol=1e-11, atol=1e-13, msg=f"{name}: {key}"
                    )


def of_tokens(
    objective: objdsl.Objective, packed: bool, places: Tensor | None
) -> dict[str, Tensor]:
    """The same for some tokens of every response; for all of them if None."""
    data = scene(objective, packed)
    step, others = prepared(objective, data)
    leaves = {name: data[name].clone().requires_grad_() for name in ("weight", "bias")}
    hidden, tokens, options = data["hidden"], data["tokens"], {}
    if places is not None:
        assert dist.group.WORLD is not None
        flat = hidden.flatten(0, -2), tokens.flatten()
        hidden, tokens = (x[places] for x in flat)
        options = {"sequence_parallel": SequenceParallel(places, dist.group.WORLD)}
    out = objective.fused(
        hidden, leaves["weight"], tokens, step, bias=leaves["bias"], **options, **others
    )
    out.loss.backward()
    leaves |= others
    gradients = {name: x.grad for name, x in leaves.items() if x.grad is not None}
    return {"value": out.value, **gradients, **out.reports}


def sequences(rank: int, folder: Path) -> None:
    """The first rank has the first tokens of each response, but no token of the fourth."""
    with group_of_two(rank, folder):
        first = torch.zeros(8, 6, dtype=torch.bool)
        first[:, :3] = True
        first[3] = False
        for name in NAMES:
            objective = objdsl.load(name, **PARAMS.get(name, {}))
            for packed in (False, True):
                here = first[scene(objective, packed)["mask"]] if packed else first.flatten()
                places = (here if rank == 0 else ~here).nonzero().squeeze(-1)
                if objective.fused_loss.coupled.distribution is not None:
                    with pytest.raises(ValueError, match="whole responses, each on a single rank"):
                        of_tokens(objective, packed, places)
                    continue
                whole = of_tokens(objective, packed, None)
                actual = of_tokens(objective, packed, places)
                assert actual.keys() == whole.keys() >= {"value", "weight", "bias"}
                for key, x in actual.items():
                    dist.all_reduce(x)
                    torch.testing.assert_close(
                        x, whole[key], rtol=1e-11, atol=1e-13, msg=f"{name}: {key}"
                    )
        with pytest.raises(ValueError, match="token 0 of the step is on 2 ranks"):
            of_tokens(objdsl.load("grpo"), False, torch.arange(48))
