"""The work of each of the two processes of tests/gallery/test_ranks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import objdsl
from helpers import gallery_steps
from helpers.paper_formulas import Step
from helpers.two_processes import group_of_two
from objdsl.objectives import gallery


def shares(kind: str, step: Step) -> list[list[int]]:
    """The rows of each of two ranks."""
    many = range(len(step.prompt))
    match kind:
        case "groups torn apart":
            return [[i for i in many if i % 3], [i for i in many if not i % 3]]
        case "whole groups":
            return [[i for i in many if step.prompt[i] % 2 == k] for k in (0, 1)]
    return [[], list(many)]


def columns(step: Step, rows: list[int], layout: str) -> dict[str, Any]:
    """Some responses as arguments of `prepare`, and the trained ones among them."""
    mask, tensors = gallery_steps.padded(step)
    mask, tensors = mask[rows], gallery_steps.rows_of(tensors, rows)
    prompt = torch.tensor(step.prompt)[rows]
    if layout == "packed":
        packed = {name: x[mask] if x.dim() > 1 else x for name, x in tensors.items()}
        return {**packed, "prompt": prompt, "lengths": mask.sum(-1)}
    longest = int(mask.sum(-1).max()) if rows else 1
    cut = {name: x[:, :longest] if x.dim() > 1 else x for name, x in tensors.items()}
    return {**cut, "prompt": prompt, "mask": mask[:, :longest]}


def evaluate(
    objective: objdsl.Objective, given: dict[str, Any], micro: int, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The value, the reports and the gradients of some rows, `micro` at a time."""
    live = {name: given.pop(name).requires_grad_() for name in objective.live}
    step = objective.prepare(**given, **options)
    step = objective.couple(step, **live)
    names = ["value", "loss", *objective.report_names]
    total = torch.zeros(len(names), dtype=torch.float64)
    for rows in torch.arange(len(step)).split(micro):
        places = step.tokens_of(rows) if step.layout == "packed" else rows
        trained = {name: x[places] if x.dim() else x for name, x in live.items()}
        out = objective(step=step[rows], **trained)
        out.loss.backward()
        total += torch.stack([out.value, out.loss.detach(), *out.reports.values()])
    gradients = {
        name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in live.items()
    }
    return dict(zip(names, total, strict=True)), gradients


def the_step_of_one_process(name: str, layout: str, kind: str) -> None:
    rank = dist.get_rank()
    objective = objdsl.load(name, **gallery_steps.PARAMS.get(name.rpartition("/")[2], {}))
    step = gallery_steps.random_step(7, objective.formula.domains)
    rows = shares(kind, step)
    order = rows[0] + rows[1]
    whole, share = columns(step, order, layout), columns(step, rows[rank], layout)
    lengths = step.lengths[order].tolist()
    numbers, gradients = evaluate(objective, whole, len(lengths))
    part, slopes = evaluate(objective, share, 2, group=dist.group.WORLD)
    for key, x in part.items():
        dist.all_reduce(x)
        torch.testing.assert_close(x, numbers[key], rtol=1e-12, atol=1e-14, msg=key)
    first = 0 if rank == 0 else len(rows[0])
    last = first + len(rows[rank])
    for key, gradient in gradients.items():
        if not gradient.dim():  # a learned number, which every rank reads
            dist.all_reduce(slopes[key])
            torch.testing.assert_close(slopes[key], gradient, rtol=1e-11, atol=1e-14)
            continue
        if layout == "packed":
            mine = gradient[sum(lengths[:first]) : sum(lengths[:last])]
        else:
            mine = gradient[first:last, : share["mask"].shape[1]]
        torch.testing.assert_close(slopes[key], mine, rtol=1e-11, atol=1e-14)


def a_mistake_is_known_to_all(step: Step) -> None:
    """A mistake on one rank is an error on both: neither waits for the other."""
    objective, rank = objdsl.load("grpo"), dist.get_rank()
    mine = shares("whole groups", step)[rank]

    def prepare(**change: Any) -> None:
        given = {**columns(step, mine, "padded"), **(change if rank == 1 else {})}
        objective.prepare(
            **{k: x for k, x in given.items() if x is not None and k not in objective.live},
            group=dist.group.WORLD,
        )

    where = "rank 1: " if rank == 0 else ""
    with pytest.raises(ValueError, match=f"^{where}grpo reads the column 'reward'"):
        prepare(reward=None)
    with pytest.raises(ValueError, match=f"^{where}the column 'reward' is NaN at"):
        prepare(reward=torch.full((len(mine),), torch.nan))
    lengths = columns(step, mine, "packed")
    with pytest.raises(ValueError, match=r"rank \d gives"):
        prepare(**lengths, mask=None)
    with pytest.raises(ValueError, match="one response only"):
        prepare(prompt=torch.arange(len(mine)) + 100)


SHARES = (
    ("padded", "groups torn apart"),
    ("packed", "whole groups"),
    ("padded", "one rank has none"),
)
# Means over tokens and over responses, a statistic of the policy, noise, and a critic.
IN_EVERY_WAY = ("grpo", "dapo", "gspo", "clip_cov", "kl_cov", "dpo", "ppo")


def work(rank: int, folder: Path) -> None:
    """Each entry in one of the ways to share rows, some in all of them."""
    with group_of_two(rank, folder):
        for number, name in enumerate(gallery.names()):
            ways = SHARES if name in IN_EVERY_WAY else (SHARES[number % len(SHARES)],)
            for layout, kind in ways:
                try:
                    the_step_of_one_process(name, layout, kind)
                except AssertionError as error:
                    raise AssertionError(f"{name}, {layout}, {kind}: {error}") from None
        a_mistake_is_known_to_all(gallery_steps.random_step(7))
