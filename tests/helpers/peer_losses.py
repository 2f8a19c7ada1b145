"""Runs an objective and another library's loss on the same tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

import objdsl
from helpers import gallery_steps
from helpers.paper_formulas import Step


@dataclass
class Data:
    """A random step as the padded tensors that other libraries take; their padding is 0, because
    they multiply it by a mask. `log_pi` and `value` are the leaves of a gradient."""

    step: Step
    mask: Tensor = field(init=False)
    columns: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.mask, columns = gallery_steps.padded(self.step)
        self.columns = {name: torch.nan_to_num(x, nan=0.0) for name, x in columns.items()}
        for name in ("log_pi", "value"):
            self.columns[name].requires_grad_(True)

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(-1)


def data(seed: int = 11) -> Data:
    return Data(gallery_steps.random_step(seed))


def grouped(seed: int = 11, groups: int = 3, size: int = 4) -> Data:
    """A step whose rows are sorted by prompt, with equal groups, as TRL lays them out."""
    step = gallery_steps.random_step(seed)
    step.prompt = sorted(list(range(groups)) * size)
    for name, rows in vars(step).items():
        if name != "prompt" and not np.isscalar(rows):
            setattr(step, name, rows[: groups * size])
    return Data(step)


def assert_same(objective: objdsl.Objective, theirs: Tensor, d: Data, rel: float = 1e-7) -> None:
    """Their loss, a tensor on top of `d`'s leaves, and the objective agree in value and gradient.

    Args:
        objective: any objective over the columns of a random step.
        theirs: 0-d, to be minimised.
        d: what their loss was computed from.
        rel: the greatest difference, relative to the value and to the largest gradient.
    """
    given = {name: x.detach() for name, x in d.columns.items()}
    leaves = [d[name] for name in objective.live]
    gradients = torch.autograd.grad(theirs, leaves, retain_graph=True)
    live = {name: given.pop(name).requires_grad_(True) for name in objective.live}
    prepared = objective.prepare(mask=d.mask, prompt=d.step.prompt, **given)
    ours = objective(step=prepared, **live)
    ours.loss.backward()
    torch.testing.assert_close(ours.loss.detach(), theirs.detach(), rtol=rel, atol=rel * 1e-2)
    for name, gradient in zip(objective.live, gradients, strict=True):
        actual = live[name].grad
        assert actual is not None and bool((gradient != 0).any())
        scale = float(gradient.abs().max())
        torch.testing.assert_close(actual, gradient * d.mask, rtol=rel, atol=rel * scale)
