"""The rows of an optimizer step, and everything that is known about them before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objdsl.emit.stages import Input, Layout
from objdsl.errors import NaNInputError
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Rows = Tensor | slice | Sequence[int]


@dataclass(frozen=True)
class Step:
    """The rows of an optimizer step, or a part of them, with all that is known before training.

    Attributes:
        layout: `padded` (tokens `[N, T]`) or `packed` (tokens `[M]`).
        lengths: `[N]`, the number of tokens of each response.
        mask: `[N, T]`, which tokens there are; for packed rows, the matrix that they would fill.
        whole: whether these are all rows of the step.
        share: which of the step's rows these are, where every rank has its own.
        origin: the step that these rows were taken from, and which of its rows they are.
        known: of the whole step, with what expressions of the objective store; see `Values`.
        objective: the digest of the objective that prepared it.
    """

    layout: Layout
    lengths: Tensor
    mask: Tensor
    tokens: dict[str, Tensor]
    responses: dict[str, Tensor]
    scalars: dict[str, Tensor]
    environment: dict[str, Any] = field(repr=False)
    coupled: bool = False
    whole: bool = True
    share: Share | None = field(default=None, repr=False)
    origin: tuple[Step, Rows] | None = field(default=None, repr=False)
    known: dict[str, Step] = field(default_factory=dict, repr=False)
    objective: str = ""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Rows) -> Step:
        """Some of the rows. In the packed layout the tokens follow the rows, in their order."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.lengths.device)
            rows = rows if rows.numel() else rows.long()  # an empty list has no type
            if rows.dtype == torch.bool:
                rows = rows.nonzero().squeeze(-1)
        picked = self.tokens_of(rows) if self.layout == "packed" else rows
        return replace(
            self,
            lengths=self.lengths[rows],
            mask=self.mask[rows],
            tokens={name: x[picked] for name, x in self.tokens.items()},
            responses={name: x[rows] for name, x in self.responses.items()},
            whole=False,
            share=None,
            origin=(self, rows),
            known={},
        )

    def tokens_of(self, rows: Rows) -> Tensor:
        """The positions of the tokens of some rows in a packed tensor `[M]`."""
        first = self.lengths.cumsum(0) - self.lengths
        first, lengths = first[rows], self.lengths[rows]
        row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        start = lengths.cumsum(0) - lengths
        return first[row] + torch.arange(len(row), device=row.device) - start[row]

    def arguments(
        self,
        inputs: Sequence[Input],
        dtype: torch.dtype,
        trained: Mapping[str, Tensor],
        params: Mapping[str, float],
    ) -> dict[str, Any]:
        """The arguments of an emitted function, by the identifiers that they have in there.

        Args:
            inputs: of the function.
            dtype: of the computation.
            trained: the trained columns.
            params: the hyper-parameters.
        """
        return {source.name: self._argument(source, dtype, trained, params) for source in inputs}

    def _argument(
        self,
        source: Input,
        dtype: torch.dtype,
        trained: Mapping[str, Tensor],
        params: Mapping[str, float],
    ) -> Any:
        match source.kind:
            case "param":
                return params[source.key]
            case "environment":
                return self._shape(source.key, dtype)
            case "column" if source.key in trained:
                return trained[source.key]
        if source.key in self.responses:
            x = self.responses[source.key]
            return x[self.environment["first"]] if source.indices == PROMPT else x
        return self.tokens[source.key] if source.key in self.tokens else self.scalars[source.key]

    def _shape(self, key: str, dtype: torch.dtype) -> Any:
        """The shape of the step, as an emitted function asks for it."""
        match key:
            case "mask":
                return self.mask
            case "length":
                return self.lengths.to(dtype)
            case "dtype":
                return dtype
            case "row":
                rows = torch.arange(len(self), device=self.lengths.device)
                return torch.repeat_interleave(rows, self.lengths)
            case "position":
                return self.mask.nonzero()[:, 1]
            case "prompt":
                return self.responses["prompt"]
            case "group_size":
                return self.environment["group_size"].to(dtype)
            case "n_prompts":
                return self.environment["n_prompts"]
        raise KeyError(key)

    def with_values(
        self, values: Mapping[str, Any], outputs: Sequence[Input], dtype: torch.dtype
    ) -> Step:
        """The step with the results of an emitted function: of rows, of tokens, or of the step."""
        tokens, responses, scalars = dict(self.tokens), dict(self.responses), dict(self.scalars)
        for output in outputs:
            value = values[output.name]
            if output.indices == SCALAR:
                scalars[output.name] = torch.as_tensor(
                    value,
                    dtype=None if isinstance(value, Tensor | bool) else dtype,
                    device=self.mask.device,
                )
            elif output.indices == RESPONSE:
                responses[output.name] = value.expand(len(self))
            else:
                full = self.mask.shape if self.layout == "padded" else value.shape
                tokens[output.name] = value.expand(*full, *value.shape[2:])
        return replace(self, tokens=tokens, responses=responses, scalars=scalars)

    def with_placeholders(self, outputs: Sequence[Input]) -> Step:
        """The step with NaN for values that only reports of the whole step need."""
        nan = torch.full((), torch.nan, device=self.mask.device)
        tokens, responses, scalars = dict(self.tokens), dict(self.responses), dict(self.scalars)
        for output in outputs:
            if output.indices == SCALAR:
                scalars[output.name] = nan
            elif output.indices == RESPONSE:
                responses[output.name] = nan.expand(len(self))
            else:
                none = torch.zeros_like(self.mask)
                tokens[output.name] = none[self.mask] if self.layout == "packed" else none
        return replace(self, tokens=tokens, responses=responses, scalars=scalars)

    def find_nan(self, inputs: Mapping[str, Tensor]) -> None:
        """Names the trained input whose NaN reached the value, if there is one.

        The inputs are only read if there is a NaN, so that other steps do not pay for it.
        """
        for name, x in inputs.items():
            nan = torch.isnan(x)
            if not x.dim():
                if bool(nan):
                    raise NaNInputError(f"{name} is NaN")
                continue
            if self.layout == "padded":
                nan &= self.mask if x.dim() == 2 else self.mask[..., None]
            if bool(nan.any()):
                where = [int(k) for k in nan.nonzero()[0]]
                raise NaNInputError(f"{name} is NaN at an unmasked token, at {where}")


@dataclass(frozen=True)
class Share:
    """The rows of one rank, among those of all.

    Attributes:
        group: the ranks.
        whole: the step of all their rows, rank after rank.
        rows: which of them are this rank's.
        width: T of this rank; that of the whole step is the widest of all ranks.
        local: token columns `[n, T, V]` or `[m, V]` that stay with their rank: the weights of a
            row need those of no other.
    """

    group: ProcessGroup
    whole: Step
    rows: slice
    width: int
    local: dict[str, Tensor]

    def local_rows(self, whole: Step) -> Step:
        """This rank's rows of the whole step, cut to the width of its own tensors."""
        step = whole[self.rows]
        mask, tokens = step.mask, step.tokens
        if step.layout == "padded":
            mask = mask[:, : self.width]
            tokens = {name: x[:, : self.width] for name, x in tokens.items()}
        return replace(
            step, mask=mask, tokens={**tokens, **self.local}, share=replace(self, whole=whole)
        )


def mask_of(lengths: Tensor) -> Tensor:
    """The mask `[N, T]` of responses of these lengths."""
    width = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device)
    return width < lengths[:, None]
