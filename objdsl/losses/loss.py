"""A loss: what maps a step to a number, and to its derivative by what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from objdsl.errors import InputError, ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.columns import Column
from objdsl.ir.declarations import Domain
from objdsl.losses.batch import Batch
from objdsl.objective import Objective


class LossError(ObjdslError, ValueError):
    """A loss that cannot be computed, or that is none; the message says why, and where."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A loss, which is to be minimised, and its derivative by each trained column.

    Attributes:
        value: a scalar.
        gradients: by the name of a trained column, the derivative in its shape; `[N, T]` for
            log-probabilities, with 0 in the padding.
    """

    value: Tensor
    gradients: dict[str, Tensor]


class Loss(Protocol):
    """What an objective and a Python function have in common.

    Attributes:
        name: as it was given.
        columns: what it reads.
        domains: the declared domains of columns.
    """

    @property
    def name(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, Column]: ...
    @property
    def domains(self) -> Mapping[str, Domain]: ...

    def __call__(self, batch: Batch) -> Evaluation:
        """The loss of a whole step.

        Raises:
            LossError: it cannot be computed.
        """
        ...


class ObjectiveLoss:
    """An objective, by the program that it compiles to."""

    def __init__(self, name: str, objective: Objective) -> None:
        self.name, self.objective = name, objective
        self.columns: Mapping[str, Column] = objective.columns
        self.domains: Mapping[str, Domain] = objective.formula.domains

    def __call__(self, batch: Batch) -> Evaluation:
        objective = self.objective
        columns: dict[str, Any] = {
            name: batch.columns[name] for name in objective.columns if name in batch.columns
        }
        live = {name: columns.pop(name) for name in objective.live}
        try:
            step = objective.prepare(
                mask=batch.mask,
                prompt=batch.prompt,
                dtype=torch.float64,
                generator=batch.generator,
                check=batch.check,
                **columns,
            )
            value, weights, _ = objective.weights(step=step, **live)
        except InputError as error:
            raise LossError(f"{self.name}: {error}") from error
        return Evaluation(-value, {name: -w for name, w in weights.items()})
