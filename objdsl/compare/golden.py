"""Golden values: a loss on recorded steps, for a CI that is to notice when it changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from objdsl import __version__
from objdsl.compare.experiment import Given, losses, padded, scans
from objdsl.compare.relation import Pair
from objdsl.compare.report import rows_of
from objdsl.frozen import dataclass
from objdsl.losses.batch import ADVANTAGE, Batch
from objdsl.losses.loss import Evaluation, LossError

VERSION = 1


@dataclass(frozen=True)
class Verdict:
    """A loss beside its golden values.

    Attributes:
        changed: the numbers of the steps on which it is different.
    """

    name: str
    steps: int
    changed: tuple[int, ...]
    worst: float

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.name} is the same on {self.steps} recorded steps"
        return (
            f"{self.name} has changed on {len(self.changed)} of {self.steps} recorded steps, first "
            f"on step {self.changed[0] + 1}; the gradient by up to {self.worst:.3g} of its norm"
        )


def golden(
    a: Given,
    *,
    like: str = "torch",
    advantages: Given | None = None,
    settings: Mapping[str, Any] | None = None,
    group: int | None = None,
    steps: int = 6,
    seed: int = 0,
) -> str:
    """The values and gradients of a loss on random steps, with these steps, as JSON.

    Raises:
        LossError: it cannot be computed.
    """
    loss, _, drawing = losses(
        a, a, like=like, advantages=advantages, settings=settings, group=group
    )
    drawn = [*drawing.steps(steps, seed), *drawing.steps(steps, seed, on_policy=True)]
    records = []
    for batch in (*drawn, *scans(drawing)):
        evaluation = loss(batch)
        records.append(
            {
                "prompt": batch.prompt.tolist(),
                "lengths": batch.lengths.tolist(),
                "columns": _lists(batch.columns, batch),
                "value": float(evaluation.value),
                "gradients": _lists(evaluation.gradients, batch),
            }
        )
    return json.dumps(
        {
            "version": VERSION, "objdsl": __version__, "loss": loss.name, "like": like,
            "seed": seed, "digest": _digest(records), "steps": records,
        }
    )  # fmt: skip


def against(
    a: Given,
    text: str,
    *,
    like: str = "torch",
    settings: Mapping[str, Any] | None = None,
    rtol: float = 1e-7,
) -> Verdict:
    """A loss beside the golden values of `golden`. Advantages are the recorded ones.

    Raises:
        LossError: it cannot be computed, or the text has no golden values.
    """
    try:
        record = json.loads(text)
        steps, version = record["steps"], record["version"]
        whole = record["digest"] == _digest(steps)
    except (ValueError, KeyError, TypeError):
        raise LossError("the file has no golden values") from None
    if version != VERSION:
        raise LossError(f"the golden values are of version {version}, and not {VERSION}")
    if not whole:
        raise LossError("the golden values were edited: their digest is that of other numbers")
    loss, _, drawing = losses(a, a, like=like, settings=settings)
    changed, worst = [], 0.0
    for k, step in enumerate(steps):
        size = torch.tensor(step["lengths"])
        mask = torch.arange(int(size.max())) < size[:, None]
        columns = {name: padded(x, mask) for name, x in step["columns"].items()}
        missing = {*drawing.columns, *loss.columns} - {*columns, ADVANTAGE}
        if missing:
            raise LossError(f"{loss.name} reads {min(missing)!r}, which was not recorded")
        batch = Batch(torch.tensor(step["prompt"]), mask, columns)
        value = torch.tensor(step["value"], dtype=torch.float64)
        gradients = {name: padded(x, mask) for name, x in step["gradients"].items()}
        pair = Pair(batch, Evaluation(value, gradients), loss(batch))
        if not (pair.same_value(rtol) and pair.same_gradient(rtol)):
            changed.append(k)
            old, new = pair.gradients
            worst = max(worst, float((new - old).norm() / old.norm().clamp(min=1e-300)))
    return Verdict(loss.name, len(steps), tuple(changed), worst)


def _lists(columns: Mapping[str, Tensor], batch: Batch) -> dict[str, Any]:
    return {name: rows_of(x, batch.lengths) for name, x in sorted(columns.items())}


def _digest(steps: Any) -> str:
    return blake2b(json.dumps(steps, sort_keys=True).encode(), digest_size=8).hexdigest()
