"""Sequence parallelism: the tokens of a response are on several ranks.

Each rank computes the gradients of its own tokens. Weights that need other tokens, and the value,
come from the log-probabilities of all: one number per token is communicated, and no logit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from objdsl.frozen import dataclass

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, eq=False)
class SequenceParallel:
    """Which tokens of a step this rank has.

    Attributes:
        places: `[m]`, their indices among the step's: in `[M]`, or in the flattened `[N * T]`.
        group: the ranks that have the others. Each token is on one of them; padding may be on any,
            or on none.
    """

    places: Tensor
    group: ProcessGroup

    @property
    def is_first(self) -> bool:
        """Whether this rank reports what all ranks computed, so that it is added up once."""
        return self.group.rank() == 0

    def scatter(self, log_pi: Tensor, size: int) -> Tensor:
        """`[M]` from the `[m]` of this rank; 0 elsewhere."""
        return log_pi.new_zeros(size).index_copy_(0, self.places, log_pi)

    def gather(self, log_pi: Tensor, live: Tensor) -> Tensor:
        """`[M]` from the `[m]` of every rank, all of which call this.

        Args:
            live: `[M]`, which places are tokens.

        Raises:
            ValueError: on every rank, if a token is on none or on several.
        """
        size = len(live)
        gathered = self.scatter(log_pi, size)
        count = self.scatter(torch.ones_like(log_pi), size)
        both = torch.stack([gathered, count])
        dist.all_reduce(both, group=self.group)
        gathered, count = both.unbind()
        wrong = (live & (count != 1)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise ValueError(f"token {place} of the step is on {int(count[place])} ranks, not on 1")
        return gathered.where(live, 0.0)
