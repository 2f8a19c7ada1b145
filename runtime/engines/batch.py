"""The responses of a step as tensors, and how they are split into minibatches, ranks and pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.ir.columns import IDS
from objdsl.runtime.engines.sampler import Response
from objdsl.step import Step

Rows = Tensor | slice


@dataclass(frozen=True)
class Batch:
    """N responses with their prompts.

    Attributes:
        tokens: `[N, L]`, prompt then response, padded on the right. Attention is causal, so the
            padding needs no mask.
        start: `[N]`, length of each prompt, which is where its response begins.
        length: `[N]`, tokens of each response, EOS included.
        place: `[N, T]`, the positions in each response of the tokens that are learned from; T is
            their largest number in the whole step.
        mask: `[N, T]`, where there is such a token.
        prompt: `[N]`, equal for responses to the same prompt.
        columns: what the objective may read: token columns `[N, T]`, response columns `[N]`.
        numbers: what the objective reads of the whole rollout: states, `step` and `steps`.
        kept: `[N, T, V]`, the tokens that top-p and top-k kept; None for all.
        step: the prepared step of the objective, once there is one; it is split with the rows.
    """

    tokens: Tensor
    start: Tensor
    length: Tensor
    place: Tensor
    mask: Tensor
    prompt: Tensor
    columns: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    kept: Tensor | None = None
    step: Step | None = None

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Rows) -> Batch:
        """Some responses. T stays the same; `tokens` loses positions that are padding in all
        rows."""
        start, length = self.start[rows], self.length[rows]
        return Batch(
            tokens=self.tokens[rows][:, : int((start + length).max())],
            start=start,
            length=length,
            place=self.place[rows],
            mask=self.mask[rows],
            prompt=self.prompt[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            numbers=self.numbers,
            kept=None if self.kept is None else self.kept[rows],
            step=None if self.step is None else self.step[rows],
        )

    def piece(self, rows: Tensor) -> Batch:
        """Some responses for a forward pass.

        A rank without rows still takes part in passes through sharded weights: it computes the
        first response, and the step of its piece is empty.
        """
        if len(rows) == len(self):
            return self
        if len(rows):
            return self[rows]
        return replace(self[:1], step=None if self.step is None else self.step[rows])

    def with_columns(self, columns: Mapping[str, Tensor]) -> Batch:
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device) -> Batch:
        return Batch(
            tokens=self.tokens.to(device),
            start=self.start.to(device),
            length=self.length.to(device),
            place=self.place.to(device),
            mask=self.mask.to(device),
            prompt=self.prompt.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
            numbers=self.numbers,
            kept=None if self.kept is None else self.kept.to(device),
        )

    def shares(self, ranks: int, size: int | None) -> list[list[Tensor]]:
        """Row indices for each of `ranks` ranks, in pieces of at most `size`.

        Responses to the same prompt are adjacent, and the ranks have about the same number of
        tokens. Every rank has the same number of pieces; the last ones may be empty.
        """
        if ranks == 1 and (size is None or size >= len(self)):
            return [[torch.arange(len(self))]]
        order = torch.argsort(self.prompt, stable=True)
        tokens = (self.start + self.length)[order]
        middle = tokens.cumsum(0) - tokens / 2
        owner = (middle * ranks / tokens.sum()).long()
        parts = [order[owner == rank].cpu() for rank in range(ranks)]
        longest = max(map(len, parts))
        size = longest if size is None else size
        return [[part[k : k + size] for k in range(0, longest, size)] for part in parts]

    def minibatches(self, count: int, seed: int) -> list[Tensor]:
        """Row indices in `count` pieces of whole groups, or one for each of fewer groups, shuffled
        by `seed`."""
        if count == 1:
            return [torch.arange(len(self))]
        prompts = torch.unique(self.prompt).cpu()
        shuffled = prompts[
            torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
        ]
        prompt = self.prompt.cpu()
        count = min(count, len(prompts))
        return [torch.isin(prompt, part).nonzero()[:, 0] for part in shuffled.tensor_split(count)]


def collate(
    prompts: Sequence[Sequence[int]],
    groups: Sequence[int],
    responses: Sequence[Response],
    columns: Mapping[str, Any],
    *,
    learned: Sequence[Sequence[int]] | None = None,
    vocabulary: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    """A step from its responses; `prompts`, `groups` and `columns` have an entry per response.

    An entry of a column is a number, or a list with a number per token that is learned from. A
    column that is one number for the whole batch becomes one of its `numbers`. Columns have
    `dtype`, and so do the sampler's log-probabilities, as `log_mu`.

    Args:
        learned: the positions of the tokens that are learned from; None for all.
    """
    if learned is None:
        learned = [range(len(response.tokens)) for response in responses]
    start = torch.tensor([len(prompt) for prompt in prompts])
    length = torch.tensor([len(response.tokens) for response in responses])
    count = torch.tensor([len(places) for places in learned])
    shape = (len(prompts), int(count.max()))
    tokens = torch.zeros(len(prompts), int((start + length).max()), dtype=torch.long)
    place = torch.zeros(shape, dtype=torch.long)
    ids = torch.zeros(shape, dtype=torch.long)
    log_mu = torch.zeros(shape, dtype=dtype)
    rows = zip(prompts, responses, learned, strict=True)
    for row, (prompt, response, places) in enumerate(rows):
        sequence = [*prompt, *response.tokens]
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        place[row, : len(places)] = torch.tensor(places)
        ids[row, : len(places)] = torch.tensor([response.tokens[t] for t in places])
        log_probs = [response.log_probs[t] for t in places]
        log_mu[row, : len(places)] = torch.tensor(log_probs, dtype=dtype)
    numbers = {name: x for name, x in columns.items() if isinstance(x, float)}
    given = {
        name: _column(values, shape[1], dtype).to(device)
        for name, values in columns.items()
        if name not in numbers
    }
    truncated = torch.tensor([response.truncated for response in responses], device=device)
    return Batch(
        tokens=tokens.to(device),
        start=start.to(device),
        length=length.to(device),
        place=place.to(device),
        mask=(torch.arange(shape[1]) < count[:, None]).to(device),
        prompt=torch.tensor(groups, device=device),
        columns={
            **given,
            "truncated": truncated,
            "log_mu": log_mu.to(device),
            IDS.name: ids.to(device),
        },
        numbers=numbers,
        kept=_kept(responses, learned, (*shape, vocabulary), device),
    )


def _column(values: Sequence[Any], longest: int, dtype: torch.dtype) -> Tensor:
    """Numbers `[N]`, or lists of them `[N, T]`, 0 in the padding."""
    if not isinstance(values[0], list):
        return torch.as_tensor(values, dtype=dtype)
    column = torch.zeros(len(values), longest, dtype=dtype)
    for row, numbers in enumerate(values):
        column[row, : len(numbers)] = torch.tensor(numbers, dtype=dtype)
    return column


def _kept(
    responses: Sequence[Response],
    learned: Sequence[Sequence[int]],
    shape: tuple[int, int, int],
    device: torch.device,
) -> Tensor | None:
    if any(response.kept is None for response in responses):
        return None
    kept = torch.zeros(shape, dtype=torch.bool)
    for row, (response, places) in enumerate(zip(responses, learned, strict=True)):
        assert response.kept is not None
        for k, t in enumerate(places):
            kept[row, k, list(response.kept[t])] = True
    # Padding keeps everything: a softmax over no token is NaN.
    kept |= ~kept.any(-1, keepdim=True)
    return kept.to(device)
