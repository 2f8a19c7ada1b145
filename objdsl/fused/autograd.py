"""Losses with derivatives in closed form, as functions of autograd.

They have a first derivative, in reverse mode. Anything that needs a second one is refused: torch
would treat the weights as constants, and the second derivative would silently be 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from objdsl.errors import DerivativeError

SECOND = (
    "the gradient of an objective is a closed form without a graph of its own: second derivatives "
    "(hessian, a gradient of the gradient after create_graph=True) are not available"
)
FORWARD = "an objective has derivatives in reverse mode alone; jvp and jacfwd are not available"
VMAP = (
    "torch.func.vmap cannot run over an objective, whose rows are coupled: evaluate it in a loop, "
    "or put the rows into one step"
)


class _Sealed(torch.autograd.Function):
    """Weights whose dependence on the trained inputs must not be differentiated."""

    @staticmethod
    def forward(many: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(w.view_as(w) for w in tensors[many:])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.many = len(inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        if any(gradient is not None for gradient in gradients):
            raise DerivativeError(SECOND)
        many: int = ctx.many
        return (None,) * many  # the first derivative passes here, too

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise DerivativeError(FORWARD)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> NoReturn:
        raise DerivativeError(FORWARD)  # over tangents: batches of inputs were refused before


class _Precomputed(torch.autograd.Function):
    """Minus the value; only its derivative is stored."""

    @staticmethod
    def forward(value: Tensor, once: bool, many: int, *tensors: Tensor) -> Tensor:
        return -value

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.once, many, *tensors = inputs
        if ctx.once:
            ctx.weights = tensors[many:]
        else:
            ctx.save_for_backward(*tensors[many:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = -gradients[0]
        if not ctx.once:
            weights = ctx.saved_tensors
            return (None, None, None, *(scale * w for w in weights), *(None for _ in weights))
        if ctx.weights is None:
            raise RuntimeError(
                "the gradients of this loss are gone: backward was called before; "
                "evaluate the objective again"
            )
        if torch.is_grad_enabled():
            raise DerivativeError(SECOND)
        # Nothing else holds them when they become gradients, so a leaf takes them without a copy.
        weights, ctx.weights = ctx.weights, None
        return (None, None, None, *(w.mul_(scale) for w in weights), *(None for _ in weights))


def refuse_batches(inputs: Iterable[Tensor]) -> None:
    """Refuses inputs of `torch.func.vmap`.

    Raises:
        DerivativeError: one of the inputs represents a batch of tensors.
    """
    functorch = torch._C._functorch
    for x in inputs:
        while functorch.is_functorch_wrapped_tensor(x):
            if functorch.is_batchedtensor(x):
                raise DerivativeError(VMAP)
            x = functorch.get_unwrapped(x)


def precomputed(
    value: Tensor, inputs: Sequence[Tensor], weights: Sequence[Tensor], *, once: bool = False
) -> Tensor:
    """The loss, 0-d, of a value whose derivatives by some inputs are the weights.

    Args:
        value: 0-d.
        inputs: whose gradient is minus the weight of the same place.
        weights: as large as their inputs.
        once: scales the weights in place, for those that are as large as a head: there is no
            second copy of them. So `backward` can be called once, and without `create_graph`.
    """
    many = len(inputs)
    if not once and not torch.compiler.is_compiling():  # which refuses second derivatives itself
        # A tensor of inference mode cannot be stored for the backward pass.
        weights = [w.clone() if w.is_inference() else w for w in weights]
        weights = _Sealed.apply(many, *inputs, *weights)  # type: ignore[no-untyped-call]
    loss: Tensor = _Precomputed.apply(value, once, many, *inputs, *weights)  # type: ignore[no-untyped-call]
    return loss
