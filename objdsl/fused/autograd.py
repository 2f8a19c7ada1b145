"""A loss whose gradients were formed on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Formed(torch.autograd.Function):
    """Minus the value; its gradients are minus those of J, scaled in place.

    The gradient by the head is as large as the head: there is no second one. So `backward` can be
    called once.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, many: int, *tensors: Tensor) -> Tensor:
        ctx.formed = tensors[many:]
        return -value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.formed is None:
            raise RuntimeError(
                "the gradients of this loss are gone: backward was called before; "
                "evaluate the objective again"
            )
        formed, ctx.formed = ctx.formed, None
        scale = -gradients[0]
        return (None, None, *(x.mul_(scale) for x in formed), *(None for _ in formed))
