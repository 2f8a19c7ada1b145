"""Random steps: ragged groups of ragged responses, with the columns that some losses read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from objdsl.audit.columns import in_domain
from objdsl.frozen import dataclass
from objdsl.ir.columns import IDS, Clock, Column, LogProbs, Reward, Values
from objdsl.ir.declarations import Domain
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, VOCAB
from objdsl.losses.advantages import Advantages
from objdsl.losses.batch import ADVANTAGE, Batch, masked

VOCABULARY = 4
_SIZES: tuple[tuple[int, ...], ...] = ((2, 3, 4), (3, 2), (2, 2, 5), (4, 3, 3, 2))
_LONGEST = 5
_DRIFT = 0.3
# The standard deviation of the difference of two policies' log-probabilities; on either side of the
# bounds of usual clips.
_CLOCK = {"rollout_step": 10.0, "rollout_steps": 100.0}


@dataclass(frozen=True)
class Drawing:
    """What the columns of random steps are drawn from.

    Attributes:
        columns: those that any of the losses reads, without the advantage.
        keys: columns that responses are grouped by, whose values must meet.
        equal: log-probabilities that are the same, by name.
        group: the size of all groups; None for several sizes.
    """

    columns: Mapping[str, Column]
    domains: Mapping[str, Domain]
    keys: Collection[str] = ()
    equal: Sequence[tuple[str, str]] = ()
    advantages: Advantages | None = None
    group: int | None = None

    def steps(self, count: int, seed: int, *, on_policy: bool = False) -> Iterator[Batch]:
        """Random steps, the same for the same seed."""
        for k in range(count):
            sizes = _SIZES[k % len(_SIZES)]
            if self.group is not None:
                sizes = (self.group,) * len(sizes)
            lengths = torch.randint(1, _LONGEST + 1, (sum(sizes),), generator=_generator(seed, k))
            yield self.step(sizes, lengths, _generator(seed, k), on_policy=on_policy)

    def step(
        self,
        sizes: Sequence[int],
        lengths: Tensor,
        generator: torch.Generator,
        *,
        on_policy: bool = False,
    ) -> Batch:
        """A random step of some shape."""
        prompt = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        empty = Batch(prompt, mask, {})
        base = -1.5 - _normal(mask.shape, generator).abs()
        columns = {
            name: self._column(column, empty, base, generator, on_policy)
            for name, column in sorted(self.columns.items())
        }
        return self.finished(Batch(prompt, mask, columns))

    def finished(self, batch: Batch) -> Batch:
        """The step with what follows from its columns: those that are equal, and the advantages."""
        copies = {
            copy: batch.columns[source]
            for copy, source in self.equal
            if copy in batch.columns and source in batch.columns
        }
        batch = batch.with_columns(**copies)
        if self.advantages is not None:
            batch = batch.with_columns(**{ADVANTAGE: self.advantages(batch)})
        return batch

    def _column(
        self, column: Column, rows: Batch, base: Tensor, generator: torch.Generator, on_policy: bool
    ) -> Tensor:
        name, count = column.name, len(rows)
        match column.role:
            case Clock():
                return torch.tensor(_CLOCK[name], dtype=torch.float64)
            case LogProbs(distribution=True):
                logits = _normal((*rows.mask.shape, VOCABULARY), generator)
                return masked(logits.log_softmax(-1), rows.mask)
            case LogProbs(policy):
                drift = _DRIFT * _normal(rows.mask.shape, generator)
                same = on_policy and policy in ("pi", "old", "mu")
                return masked(base if same else base + drift.clamp(-1.4, 1.4), rows.mask)
            case Values():
                return masked(_normal(rows.mask.shape, generator), rows.mask)
        if name == IDS.name:
            ids = torch.randint(0, VOCABULARY, rows.mask.shape, generator=generator)
            return masked(ids.double(), rows.mask)
        domain = self.domains.get(name, Domain())
        if column.indices == SCALAR:
            return in_domain(domain, _normal((), generator))
        if column.indices == PROMPT:
            of_prompts = in_domain(domain, _normal((len(rows.prompts),), generator))
            return of_prompts[rows.prompt]
        if column.indices == RESPONSE:
            drawn = in_domain(domain, _normal((count,), generator))
            if name in self.keys:
                drawn = (drawn > drawn.mean()).double()
            if name == "truncated" or len(set(domain.values)) == 2:
                low, high = domain.two if domain.values else (0.0, 1.0)
                drawn = self._both(low, high, rows, generator)
            elif isinstance(column.role, Reward) and len({*drawn.tolist()}) < count:
                drawn = self._both(*domain.two, rows, generator)
            return drawn
        shape = (*rows.mask.shape, *([VOCABULARY] if column.indices == VOCAB else []))
        drawn = in_domain(domain, _normal(shape, generator))
        if name in self.keys:
            drawn = (drawn > 0).double().cumsum(1) if not domain.values else drawn
        return masked(drawn, rows.mask)

    @staticmethod
    def _both(low: float, high: float, rows: Batch, generator: torch.Generator) -> Tensor:
        """Two values, of which every group has both."""
        right = _normal((len(rows),), generator) > 0
        for prompt in rows.prompts:
            members = (rows.prompt == prompt).nonzero().squeeze(1)[:2]
            right[members] = torch.tensor([True, False])[: len(members)]
        return torch.where(right, high, low).double()


def _generator(seed: int, k: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + k)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator)
