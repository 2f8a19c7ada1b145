"""Rollouts: the responses of a step, whatever their source."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judge import shown
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.report.metrics import Clock, Sample
from objdsl.runtime.settings.config import ConfigError
from objdsl.step.states import States


@dataclass(frozen=True, slots=True)
class Rollout:
    """The responses of a step.

    Attributes:
        metrics: measured on the responses, before the policy learns from them.
        position: the position in the task's order after these prompts.
        keys: of the prompt of each row of the batch, for its states.
        learned: the rows that are learned from; None for all. The batch of an objective with states
            has everything that was sampled.
    """

    batch: Batch
    samples: list[Sample]
    metrics: dict[str, float]
    position: int
    keys: tuple[str, ...]
    learned: slice | None = None


class Source(Protocol):
    """Where the responses of a step come from."""

    def roll(self, step: int, position: int, clock: Clock, states: States) -> Rollout:
        """The responses of step `step`, from 0, to the prompts after `position` in the task's
        order."""


@dataclass(frozen=True, slots=True)
class Place:
    """The vocabulary, device and dtype of the tensors of a batch."""

    vocabulary: int
    device: torch.device
    dtype: torch.dtype


def number(name: str, example: Example) -> float:
    """A column of the task that the objective reads. Raises ConfigError unless it is a number."""
    value = example.columns.get(name)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise ConfigError(
            [f"{example.name}: the column `{name}` is {shown(value)}: the objective reads a number"]
        )
    return result
