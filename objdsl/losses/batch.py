"""The rows of a step, with their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from objdsl.frozen import dataclass

ADVANTAGE = "the advantage"
"""The column with advantages, for losses that are given them. No column of a file is called so."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a step, those of a prompt together.

    Attributes:
        prompt: `[N]`, which rows answer the same prompt.
        mask: `[N, T]`, the tokens of the responses, from the left.
        columns: by name; 0 in the padding.
        generator: of what is drawn within a step.
        check: whether the values of columns are looked at.
    """

    prompt: Tensor
    mask: Tensor
    columns: Mapping[str, Tensor]
    generator: torch.Generator | None = None
    check: bool = True

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(-1)

    @property
    def prompts(self) -> list[int]:
        """The prompts, in order."""
        return list(dict.fromkeys(self.prompt.tolist()))

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Some rows, in tensors of the same width."""
        index = torch.tensor(rows)
        columns = {name: x[index] if x.dim() else x for name, x in self.columns.items()}
        return Batch(self.prompt[index], self.mask[index], columns)

    def narrowed(self, width: int | None = None) -> Batch:
        """The first tokens of each response; by default all, without columns of padding."""
        width = int(self.lengths.max()) if width is None else width
        columns = {name: x[:, :width] if x.dim() > 1 else x for name, x in self.columns.items()}
        return Batch(self.prompt, self.mask[:, :width], columns)

    def without_token(self, row: int, t: int) -> Batch:
        """Without a token of a response; those after it move up."""
        width = self.mask.shape[1]
        order = torch.arange(width).repeat(len(self), 1)
        order[row] = torch.tensor([*range(t), *range(t + 1, width), t])
        rows = torch.arange(len(self))[:, None]
        mask = self.mask.clone()
        mask[row, t] = False
        moved = {
            name: x.clone()[rows, order] if x.dim() > 1 else x for name, x in self.columns.items()
        }
        mask = mask[rows, order]
        return Batch(self.prompt, mask, {k: masked(x, mask) for k, x in moved.items()}).narrowed()

    def with_columns(self, **columns: Tensor) -> Batch:
        """The same rows with more columns, or different ones, in the shapes of `columns`."""
        return replace(self, columns={**self.columns, **columns})


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """A column with 0 in the padding, where it has tokens."""
    if x.dim() < 2:
        return x
    return torch.where(mask if x.dim() == 2 else mask[..., None], x, torch.zeros_like(x))
