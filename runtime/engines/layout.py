"""A batch as rows of tokens for a model, and the position that predicts each token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.runtime.engines.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The attention mask of a shared row is at most this wide.
LONGEST_SHARED_ROW = 2048


@dataclass(frozen=True)
class Layout:
    """B rows of at most S tokens that hold the N responses of a batch.

    Attributes:
        tokens: `[B, S]`, padded on the right.
        attention: `[B, 1, S, S]`, added to the scores of attention: 0 where a token sees another,
            the lowest number elsewhere; None for causal attention.
        positions: `[B, S]`, the position of each token in its sequence; None if that is the
            position in the row.
        first: logits are needed from this position of the row on: K positions.
        row: `[N, 1]`, the row of each response.
        at: `[N, T]`, the position in the row that predicts each token that is learned from, counted
            from `first`.
        targets: `[N, T]`, these tokens.
        mask: `[N, T]`, where there is such a token.
    """

    tokens: Tensor
    attention: Tensor | None
    positions: Tensor | None
    first: int
    row: Tensor
    at: Tensor
    targets: Tensor
    mask: Tensor

    def pick(self, values: Tensor) -> Tensor:
        """`[B, K, ...]` by position -> `[N, T, ...]` by token, 0 in the padding."""
        mask = self.mask if values.dim() == 2 else self.mask[..., None]
        return torch.where(mask, values[self.row, self.at], 0.0)

    def pick_tokens(self, values: Tensor) -> Tensor:
        """`[B, K, V]` -> `[N, T]`, the entries of the tokens themselves."""
        return torch.where(self.mask, values[self.row, self.at, self.targets], 0.0)

    def mask_dropped(self, scores: Tensor, kept: Tensor) -> Tensor:
        """Scores `[B, K, V]` with the lowest number for tokens that the sampler dropped.

        The mask of the sampler applies to every policy: a token that could not be sampled is not
        part of the distributions of the objective.

        Args:
            kept: `[N, T, V]`, the tokens that the sampler kept.
        """
        allowed = torch.ones_like(scores, dtype=torch.bool)
        responses, steps = self.mask.nonzero(as_tuple=True)
        at = self.at[responses, steps]
        allowed[self.row[responses, 0], at] = kept[responses, steps]
        # Not -inf, whose product with a probability of 0 is NaN.
        return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)


def layout_of(batch: Batch, dtype: torch.dtype, may_share: bool) -> Layout:
    """A row per prompt, with all its responses, where that saves tokens; else one per response."""
    if may_share and batch.kept is None:
        prompts = _Prompts(batch)
        if 4 * prompts.size < 3 * batch.tokens.numel() and prompts.longest <= LONGEST_SHARED_ROW:
            return _row_per_prompt(batch, prompts, dtype)
    return _row_per_response(batch)


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model supports arbitrary attention masks.

    Layers with a sliding window or a state do not, and flash kernels take no mask.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        full = getattr(config, "sliding_window", None) is None
    else:
        full = set(kinds) == {"full_attention"}
    return full and config._attn_implementation in {"sdpa", "eager"}


def _targets(batch: Batch, place: Tensor) -> Tensor:
    """The tokens at some positions `[N, T]` of the responses."""
    places = (batch.start[:, None] + place).clamp(max=batch.tokens.shape[1] - 1)
    return batch.tokens.gather(1, places)


def _row_per_response(batch: Batch) -> Layout:
    """A row per response. The last token predicts nothing; no token sees padding to its right."""
    first = int(batch.start.min()) - 1
    last = batch.tokens.shape[1] - 2 - first
    return Layout(
        tokens=batch.tokens[:, :-1],
        attention=None,
        positions=None,
        first=first,
        row=torch.arange(len(batch), device=batch.mask.device)[:, None],
        at=(batch.start[:, None] - 1 - first + batch.place).clamp(max=last),
        targets=_targets(batch, batch.place),
        mask=batch.mask,
    )


class _Prompts:
    """The prompts of a batch, and the offset of each response in the row of its prompt.

    Attributes:
        group: `[N]`, the prompt of each response, counted from 0.
        lead: `[P]`, one response to each prompt.
        offset: `[N]`, where the response begins in the row of its prompt.
        longest: tokens in the longest row.
        size: tokens in all rows, including padding.
    """

    def __init__(self, batch: Batch) -> None:
        _, self.group = torch.unique(batch.prompt, return_inverse=True)
        order = torch.argsort(self.group, stable=True)
        sizes = torch.bincount(self.group)
        self.lead = order[sizes.cumsum(0) - sizes]
        # The last token of a response predicts nothing, and is not an input.
        read = batch.length - 1
        so_far = torch.zeros_like(read)
        so_far[order] = read[order].cumsum(0) - read[order]
        self.offset = batch.start + so_far - so_far[self.lead][self.group]
        self.longest = int((self.offset + read).max())
        self.size = self.longest * len(sizes)


def _row_per_prompt(batch: Batch, prompts: _Prompts, dtype: torch.dtype) -> Layout:
    """A row per prompt, then its responses one after another, which do not see each other."""
    device = batch.mask.device
    count = len(prompts.lead)
    shape = (count, prompts.longest)
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    positions = torch.zeros(shape, dtype=torch.long, device=device)
    segment = torch.full(shape, -1, device=device)

    start = batch.start[prompts.lead]
    column = torch.arange(int(start.max()), device=device)
    row, place = (column < start[:, None]).nonzero(as_tuple=True)
    tokens[row, place] = batch.tokens[prompts.lead[row], place]
    positions[row, place] = place
    segment[row, place] = 0

    steps = torch.arange(int(batch.length.max()), device=device).expand(len(batch), -1)
    response, step = (steps < batch.length[:, None] - 1).nonzero(as_tuple=True)
    row, place = prompts.group[response], prompts.offset[response] + step
    tokens[row, place] = _targets(batch, steps)[response, step]
    positions[row, place] = batch.start[response] + step
    segment[row, place] = response + 1

    column = torch.arange(prompts.longest, device=device)
    same = segment[:, None, :] == segment[:, :, None]
    sees = (same | (segment == 0)[:, None, :]) & (column <= column[:, None])
    attention = torch.zeros(sees.shape, dtype=dtype, device=device)
    attention.masked_fill_(~sees, torch.finfo(dtype).min)

    first = int(start.min()) - 1
    at = prompts.offset[:, None] + batch.place - 1
    at = torch.where(batch.place == 0, batch.start[:, None] - 1, at)
    return Layout(
        tokens=tokens,
        attention=attention[:, None],
        positions=positions,
        first=first,
        row=prompts.group[:, None],
        at=(at - first).clamp(max=prompts.longest - 1 - first),
        targets=_targets(batch, batch.place),
        mask=batch.mask,
    )
