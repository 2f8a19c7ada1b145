"""Responses whose tokens are on several ranks, as sequence parallelism has them.

Each rank forms the gradients by its own tokens. Weights that need other tokens, and the value, come
from the log-probabilities of all: one number for a token travels, and no logit does.
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
class Spread:
    """Which tokens of a step are here.

    Attributes:
        places: `[m]`, their places among the step's: in `[M]`, or in the flattened `[N * T]`.
        group: the ranks that have the others. Each token is on one of them; padding may be on any,
            or on none.
    """

    places: Tensor
    group: ProcessGroup

    @property
    def first(self) -> bool:
        """Whether this rank tells what all of them know, so that ranks add up."""
        return self.group.rank() == 0

    def alone(self, log_pi: Tensor, many: int) -> Tensor:
        """`[M]` from the `[m]` that are here; 0 elsewhere."""
        return log_pi.new_zeros(many).index_copy_(0, self.places, log_pi)

    def together(self, log_pi: Tensor, live: Tensor) -> Tensor:
        """`[M]` from the `[m]` of every rank, all of which call this.

        Args:
            live: `[M]`, which places are tokens.

        Raises:
            ValueError: on every rank, if a token is on none or on several.
        """
        many = len(live)
        found = self.alone(log_pi, many)
        count = self.alone(torch.ones_like(log_pi), many)
        both = torch.stack([found, count])
        dist.all_reduce(both, group=self.group)
        found, count = both.unbind()
        wrong = (live & (count != 1)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise ValueError(f"token {place} of the step is on {int(count[place])} ranks, not on 1")
        return found.where(live, 0.0)
