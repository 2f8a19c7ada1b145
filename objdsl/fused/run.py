"""An objective through a plan: which rows when, and what it says of them."""

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
from objdsl.fused.kernels import TORCH, Kernels, Weigh
from objdsl.fused.passes import Gradients, one_pass, scaled_pass, two_passes, word_pass
from objdsl.fused.spread import Spread
from objdsl.ir.columns import of_policy

Weights = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class Rows(Protocol):
    """What is used of a step: its shape, and parts of it."""

    @property
    def lengths(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def layout(self) -> str: ...
    def __getitem__(self, rows: slice) -> Any: ...


class Weighs(Protocol):
    """What is used of an objective."""

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
        others: the trained inputs that do not come out of the head, such as a critic's `value`.
        alive: `[M]`, rows that may have a weight; None for all.
        factors: those of a weight that comes apart, `share` and `scale`, as functions of `[M]`.
        kernels: what is done to the logits of sampled tokens.
        spread: which of the step's tokens are here; None for all. Rows below are then of these.
    """

    objective: Weighs
    step: Rows
    coupled: Coupled
    others: Mapping[str, Tensor]
    alive: Tensor | None = None
    factors: tuple[Weigh, Weigh] | None = None
    kernels: Kernels = TORCH
    spread: Spread | None = None

    def __call__(
        self, head: Head, hidden: Tensor, tokens: Tensor, plan: Plan, *, frozen: bool
    ) -> tuple[Gradients, Weights]:
        """The gradients of J by what the head is made of, and value, weights and reports.

        Args:
            hidden: `[M, H]`, of packed tokens or of the flattened matrix `[N * T, H]`.
            tokens: `[M]`.
        """
        if self.coupled.words is not None:
            return self._by_words(head, hidden, tokens, plan, frozen)
        rows = self._places()
        options: dict[str, Any] = {"width": plan.slice, "frozen": frozen, "kernels": self.kernels}
        given = head, hidden, tokens
        if plan.schedule == "two passes":
            made = two_passes(*given, rows, self._weigh, chunk=plan.chunk, **options)
            return made, self._said(made)
        living, dead = self._parted(rows)
        weigh = self._weigher(head, len(hidden))
        options["silent"] = chunks(dead, plan.chunk) if len(dead) else ()
        if plan.schedule in ("one pass", "one pass, whole step"):  # the latter is one chunk
            made = one_pass(*given, chunks(living, plan.chunk), weigh, **options)
        elif plan.schedule == "one pass, whole responses":
            pieces = self._responses(living, plan.chunk)
            made = one_pass(*given, pieces, weigh, **options)
        else:
            assert self.factors is not None
            pieces = self._responses(living, plan.chunk)
            made = scaled_pass(
                *given, pieces, self._weigh, *self.factors, chunk=plan.chunk, **options
            )
        if said := self.kernels.said():
            return made, (said[0], {}, said[1])
        return made, self._said(made)

    # --- what the objective says -----------------------------------------------------------------

    @property
    def _names(self) -> tuple[str, str]:
        """The columns of the trained policy: of sampled tokens, and of whole distributions."""
        return of_policy(self.coupled.name)

    def _weights(self, log_pi: Tensor) -> Weights:
        shaped = log_pi.view(self.step.mask.shape) if self.step.layout == "padded" else log_pi
        return self.objective.weights(step=self.step, **{self._names[0]: shaped}, **self.others)

    def _weigh(self, log_pi: Tensor) -> Tensor:
        spread = self.spread
        if spread is None:
            return self._weights(log_pi)[1][self._names[0]].flatten()
        if self.coupled.worst > Coupling.TOKEN:
            whole = spread.together(log_pi, self._live)
        else:
            whole = spread.alone(log_pi, len(self._live))
        return self._weights(whole)[1][self._names[0]].flatten()[spread.places]

    def _said(self, made: Gradients) -> Weights:
        """Value, weights and reports, when all log-probabilities are there."""
        if self.spread is None:
            return self._weights(made.log_pi)
        made.log_pi = self.spread.together(made.log_pi, self._live)
        value, weights, reports = self._weights(made.log_pi)
        once = 1.0 if self.spread.first else 0.0
        return (
            value * once,
            {name: w * once for name, w in weights.items()},
            {name: report * once for name, report in reports.items()},
        )

    def _weigher(self, head: Head, many: int) -> Weigh:
        """The weights, asked for once if no log-probability changes them."""
        if self.coupled.worst is not Coupling.KNOWN:
            return self._weigh
        known = self._weigh(head.weight.new_zeros(many, dtype=head.wide))
        return lambda log_pi: known

    # --- which rows ------------------------------------------------------------------------------

    @cached_property
    def _live(self) -> Tensor:
        """`[M]` or `[N * T]`, which places of the step are tokens."""
        mask = self.step.mask
        return mask[mask] if self.step.layout == "packed" else mask.flatten()

    def _places(self) -> Tensor:
        """Where the tokens are, response by response."""
        live = self._live if self.spread is None else self._live[self.spread.places]
        return live.nonzero().squeeze(-1)

    def _parted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that may have a weight, and those that have none for certain. Log-probabilities
        of the latter come first, so that weights may need them."""
        if self.alive is None:
            return rows, rows[:0]
        living = self.alive[rows]
        return rows[living], rows[~living]

    def _responses(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """Rows in chunks of whole responses, as far as they are among the rows, of about `size`
        tokens."""
        places = self._places()
        owner = torch.repeat_interleave(self.step.lengths)[torch.isin(places, rows)]
        lengths = torch.bincount(owner, minlength=len(self.step.lengths)).tolist()
        sizes = [sum(lengths[part]) for part in _binned(lengths, size)]
        pieces = rows.split_with_sizes(sizes)
        yield from (piece for piece in pieces if len(piece))

    # --- weights of words ------------------------------------------------------------------------

    def _by_words(
        self, head: Head, hidden: Tensor, tokens: Tensor, plan: Plan, frozen: bool
    ) -> tuple[Gradients, Weights]:
        """Responses in chunks, each a part of the step whose value and reports add up."""
        (name, distribution), places = self._names, self._places()
        found: list[Weights] = []
        lengths = self.step.lengths.tolist()
        parts = list(_binned(lengths, plan.chunk))
        ends = list(accumulate(sum(lengths[part]) for part in parts))
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        pieces = [places[span] for span in spans]
        which = zip(parts, spans, strict=True)

        def weigh(rows: Tensor, log_pi: Tensor, log_p: Tensor) -> tuple[Tensor | None, Tensor]:
            responses, span = next(which)
            part = self.step[responses] if len(parts) > 1 else self.step
            inside = rows - responses.start * part.mask.shape[1]  # of a matrix, if it is one
            inputs = {distribution: _shaped(log_p, part, inside)}
            if self.coupled.log_prob is not None:
                inputs[name] = _shaped(log_pi, part, inside)
            others = {k: x[responses] if x.dim() > 1 else x[span] for k, x in self.others.items()}
            value, weights, reports = self.objective.weights(step=part, **inputs, **others)
            words, w = weights.pop(distribution), weights.pop(name, None)
            found.append((value, weights, reports))  # without what is as large as the logits
            return None if w is None else _flat(w, part, inside), _flat(words, part, inside)

        made = word_pass(head, hidden, tokens, pieces, weigh, width=plan.slice, frozen=frozen)
        value = torch.stack([said[0] for said in found]).sum()
        names = found[0][2]
        reports = {one: torch.stack([said[2][one] for said in found]).sum() for one in names}
        weights = {
            one: torch.cat([said[1][one] for said in found])
            for one in self.others
            if one in found[0][1]
        }
        return made, (value, weights, reports)


def sizes_of(head: Head, step: Rows, frozen: bool, spread: Spread | None) -> Sizes:
    """What a plan is made from; waits for the device."""
    lengths = step.lengths.tolist()
    return Sizes(
        tokens=sum(lengths) if spread is None else len(spread.places),
        longest=max(lengths, default=0),
        hidden=head.weight.shape[1],
        vocabulary=head.weight.shape[0],
        narrow=head.weight.element_size(),
        wide=head.wide.itemsize,
        frozen_head=frozen,
        softcap=head.softcap is not None,
        kept=head.kept is not None,
        spread=spread is not None,
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
