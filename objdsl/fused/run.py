"""One evaluation of an objective by a plan: the order of its rows, and their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from objdsl.analysis.schedule.coupling import Coupled, Coupling
from objdsl.analysis.schedule.plan import Plan, Sizes
from objdsl.frozen import dataclass
from objdsl.fused.head import Head, chunks
from objdsl.fused.kernels import TORCH, Kernels, WeightFn
from objdsl.fused.passes import Gradients, one_pass, scaled_pass, two_passes, vocab_pass
from objdsl.fused.sequence_parallel import SequenceParallel
from objdsl.ir.columns import of_policy

Weights = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class Rows(Protocol):
    """The part of a step that is used here: its shape, and its rows."""

    @property
    def lengths(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def layout(self) -> str: ...
    def __getitem__(self, rows: slice) -> Any: ...


class Weighted(Protocol):
    """The part of an objective that is used here."""

    def weights(
        self, log_pi: Tensor | None = None, step: Any = None, **trained: Tensor
    ) -> Weights: ...


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation of an objective over a head.

    Attributes:
        objective: gives the weights.
        step: its rows.
        coupled: what is known of the weights.
        others: the trained inputs that the head does not compute, such as a critic's `value`.
        may_be_nonzero: `[M]`, rows that may have a weight; None for all.
        factors: those of a weight that comes apart, `share` and `scale`, as functions of `[M]`.
        kernels: the operations on the logits of sampled tokens.
        sequence_parallel: which of the step's tokens this rank has; None for all. Rows below are
            then among these.
    """

    objective: Weighted
    step: Rows
    coupled: Coupled
    others: Mapping[str, Tensor]
    may_be_nonzero: Tensor | None = None
    factors: tuple[WeightFn, WeightFn] | None = None
    kernels: Kernels = TORCH
    sequence_parallel: SequenceParallel | None = None

    def __call__(
        self, head: Head, hidden: Tensor, tokens: Tensor, plan: Plan, *, frozen: bool
    ) -> tuple[Gradients, Weights]:
        """The gradients of J by what the head is made of, and value, weights and reports.

        Args:
            hidden: `[M, H]`, of packed tokens or of the flattened matrix `[N * T, H]`.
            tokens: `[M]`.
        """
        if self.coupled.distribution is not None:
            return self._vocab_weights(head, hidden, tokens, plan, frozen)
        rows = self._places()
        options: dict[str, Any] = {"width": plan.slice, "frozen": frozen, "kernels": self.kernels}
        given = head, hidden, tokens
        if plan.schedule == "two passes":
            grads = two_passes(*given, rows, self._token_weights, chunk=plan.chunk, **options)
            return grads, self._totals(grads)
        weighted, unweighted = self._parted(rows)
        weight_fn = self._weight_fn(head, len(hidden))
        options["unweighted"] = chunks(unweighted, plan.chunk) if len(unweighted) else ()
        if plan.schedule in ("one pass", "one pass, whole step"):  # the latter is one chunk
            grads = one_pass(*given, chunks(weighted, plan.chunk), weight_fn, **options)
        elif plan.schedule == "one pass, whole responses":
            pieces = self._responses(weighted, plan.chunk)
            grads = one_pass(*given, pieces, weight_fn, **options)
        else:
            assert self.factors is not None
            pieces = self._responses(weighted, plan.chunk)
            grads = scaled_pass(
                *given, pieces, self._token_weights, *self.factors, chunk=plan.chunk, **options
            )
        return grads, self.kernels.totals() or self._totals(grads)

    # --- weights and totals -----------------------------------------------------------------------

    @property
    def _names(self) -> tuple[str, str]:
        """The columns of the trained policy: of sampled tokens, and of whole distributions."""
        return of_policy(self.coupled.name)

    def _weights(self, log_pi: Tensor) -> Weights:
        shaped = log_pi.view(self.step.mask.shape) if self.step.layout == "padded" else log_pi
        return self.objective.weights(step=self.step, **{self._names[0]: shaped}, **self.others)

    def _token_weights(self, log_pi: Tensor) -> Tensor:
        sequence_parallel = self.sequence_parallel
        if sequence_parallel is None:
            return self._weights(log_pi)[1][self._names[0]].flatten()
        if self.coupled.worst > Coupling.TOKEN:
            whole = sequence_parallel.gather(log_pi, self._live)
        else:
            whole = sequence_parallel.scatter(log_pi, len(self._live))
        return self._weights(whole)[1][self._names[0]].flatten()[sequence_parallel.places]

    def _totals(self, grads: Gradients) -> Weights:
        """Value, weights and reports, when all log-probabilities are there."""
        if self.sequence_parallel is None:
            return self._weights(grads.log_pi)
        grads.log_pi = self.sequence_parallel.gather(grads.log_pi, self._live)
        value, weights, reports = self._weights(grads.log_pi)
        share = 1.0 if self.sequence_parallel.is_first else 0.0
        return (
            value * share,
            {name: w * share for name, w in weights.items()},
            {name: report * share for name, report in reports.items()},
        )

    def _weight_fn(self, head: Head, size: int) -> WeightFn:
        """The weights, asked for once if no log-probability changes them."""
        if self.coupled.worst is not Coupling.KNOWN:
            return self._token_weights
        known = self._token_weights(head.weight.new_zeros(size, dtype=head.acc_dtype))
        return lambda log_pi: known

    # --- which rows ------------------------------------------------------------------------------

    @cached_property
    def _live(self) -> Tensor:
        """`[M]` or `[N * T]`, which places of the step are tokens."""
        mask = self.step.mask
        return mask[mask] if self.step.layout == "packed" else mask.flatten()

    def _places(self) -> Tensor:
        """The places of the tokens, response by response."""
        live = (
            self._live
            if self.sequence_parallel is None
            else self._live[self.sequence_parallel.places]
        )
        return live.nonzero().squeeze(-1)

    def _parted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that may have a weight, and those that have none for certain. Log-probabilities
        of the latter come first, so that weights may need them."""
        if self.may_be_nonzero is None:
            return rows, rows[:0]
        weighted = self.may_be_nonzero[rows]
        return rows[weighted], rows[~weighted]

    def _responses(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """Rows in chunks of whole responses, as far as they are among the rows, of about `size`
        tokens."""
        places = self._places()
        owner = torch.repeat_interleave(self.step.lengths)[torch.isin(places, rows)]
        lengths = torch.bincount(owner, minlength=len(self.step.lengths)).tolist()
        sizes = [sum(lengths[part]) for part in _binned(lengths, size)]
        pieces = rows.split_with_sizes(sizes)
        yield from (piece for piece in pieces if len(piece))

    # --- weights of the vocabulary ---------------------------------------------------------------

    def _vocab_weights(
        self, head: Head, hidden: Tensor, tokens: Tensor, plan: Plan, frozen: bool
    ) -> tuple[Gradients, Weights]:
        """Responses in chunks, each a part of the step whose value and reports add up."""
        (name, distribution), places = self._names, self._places()
        parts_done: list[Weights] = []
        lengths = self.step.lengths.tolist()
        parts = list(_binned(lengths, plan.chunk))
        ends = list(accumulate(sum(lengths[part]) for part in parts))
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        pieces = [places[span] for span in spans]
        which = zip(parts, spans, strict=True)

        def weight_fn(rows: Tensor, log_pi: Tensor, log_p: Tensor) -> tuple[Tensor | None, Tensor]:
            responses, span = next(which)
            part = self.step[responses] if len(parts) > 1 else self.step
            inside = rows - responses.start * part.mask.shape[1]  # of a matrix, if it is one
            inputs = {distribution: _shaped(log_p, part, inside)}
            if self.coupled.log_prob is not None:
                inputs[name] = _shaped(log_pi, part, inside)
            others = {
                k: x[responses] if x.dim() > 1 else x[span] if x.dim() else x
                for k, x in self.others.items()
            }
            value, weights, reports = self.objective.weights(step=part, **inputs, **others)
            w_vocab, w = weights.pop(distribution), weights.pop(name, None)
            parts_done.append((value, weights, reports))  # without what is as large as the logits
            return None if w is None else _flat(w, part, inside), _flat(w_vocab, part, inside)

        grads = vocab_pass(head, hidden, tokens, pieces, weight_fn, width=plan.slice, frozen=frozen)
        value = torch.stack([outcome[0] for outcome in parts_done]).sum()
        names = parts_done[0][2]
        reports = {
            name: torch.stack([outcome[2][name] for outcome in parts_done]).sum() for name in names
        }
        weights = {}
        for name in parts_done[0][1].keys() & self.others.keys():
            some = [outcome[1][name] for outcome in parts_done]
            weights[name] = torch.cat(some) if some[0].dim() else torch.stack(some).sum()
        return grads, (value, weights, reports)


def sizes_of(
    head: Head, step: Rows, frozen: bool, sequence_parallel: SequenceParallel | None
) -> Sizes:
    """The sizes that a plan is made from; waits for the device."""
    lengths = step.lengths.tolist()
    return Sizes(
        tokens=sum(lengths) if sequence_parallel is None else len(sequence_parallel.places),
        longest=max(lengths, default=0),
        hidden=head.weight.shape[1],
        vocabulary=head.weight.shape[0],
        weight_bytes=head.weight.element_size(),
        acc_bytes=head.acc_dtype.itemsize,
        frozen_head=frozen,
        softcap=head.softcap is not None,
        kept=head.kept is not None,
        sequence_parallel=sequence_parallel is not None,
        parts=1 + len(head.rest),
    )


def _shaped(x: Tensor, part: Rows, places: Tensor) -> Tensor:
    """Tokens as rows of a step have them, `[n, T, ...]` or `[m, ...]`, by their places in there: to
    look for those in the mask would wait for the device."""
    if part.layout == "packed":
        return x
    full = x.new_zeros(part.mask.numel(), *x.shape[1:])
    full[places] = x
    return full.view(*part.mask.shape, *x.shape[1:])


def _flat(x: Tensor, part: Rows, places: Tensor) -> Tensor:
    return x if part.layout == "packed" else x.flatten(0, 1)[places]


def _binned(lengths: list[int], size: int) -> Iterator[slice]:
    """Neighbours whose lengths add up to `size` at most; one that is longer is alone."""
    first = total = 0
    for row, length in enumerate(lengths):
        if total and total + length > size:
            yield slice(first, row)
            first, total = row, 0
        total += length
    yield slice(first, len(lengths))
