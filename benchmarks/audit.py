"""The products and memory traffic of a contestant at the sizes of a real model, on any machine.

Tensors as large as a model have a shape but no data, and claim to be on a GPU, so that code which
asks takes the same path as there. Small tensors have data, so that code which reads masks and
lengths works. A Triton kernel counts as one operation that moves the contents of its arguments.
Compiled graphs, and kernels with matrix products, cannot be counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from contestants import Contestant, Unable
from problems import Model, Problem, Shape, Task
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from objdsl.fused.counts import Counts

aten = torch.ops.aten

SHAPE = Shape(rows=8, length=1024, hidden=4096, vocabulary=128_256)
_GPU, _HERE, _NOWHERE = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
_SMALL = 1 << 20  # the most elements of a tensor that has data


@dataclass(frozen=True)
class Audit:
    """The counts of a run.

    Attributes:
        products: matrix products in units of tokens x hidden x vocabulary, by the dtype of their
            operands.
        bytes_a_logit: bytes that operations read and write, if none is fused, divided by tokens x
            vocabulary.
        operations: the number of operations that are not views.
    """

    products: dict[str, float]
    bytes_a_logit: float
    operations: int


class _OnGpu(TorchFunctionMode):
    """All tensors claim to be on one GPU, whether they have data or not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.is_cuda.__get__:
            return _nowhere(args[0]) or func(*args)
        if func == Tensor.device.__get__:
            return _GPU
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if tensors and not any(map(_nowhere, tensors)):
            return func(*_on(_HERE, args), **_on(_HERE, kwargs))
        result = func(*_on(_NOWHERE, args), **_on(_NOWHERE, kwargs))
        if not tensors and _nowhere(result) and result.numel() <= _SMALL:
            return func(*_on(_HERE, args), **_on(_HERE, kwargs))
        return result


class _NoNumbers(TorchDispatchMode):
    """Operands of a tensor without data lose their data, too; reading such a number gives 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(map(_nowhere, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return 0
        if func is aten._to_copy.default and kwargs.get("device") == _HERE:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func._schema.name in ("aten::index", "aten::index_put_"):
            args = (args[0], _places(args[1]), *args[2:])
        result = func(*_without_numbers(args), **_without_numbers(kwargs))
        return args[0] if func._schema.is_mutable and args and result is not None else result


class _Counted(Counts):
    """Counts operations as well, and launches no kernel."""

    operations = 0

    @contextmanager
    def launches(self) -> Iterator[None]:
        """Triton kernels inside are counted, and not run."""
        try:
            from triton.runtime.jit import JITFunction
        except ImportError:
            yield
            return

        def launch(_: object, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
            self.operations += 1
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            self.moved += sum(x.numel() * x.element_size() for x in tensors)

        run, JITFunction.run = JITFunction.run, launch
        try:
            yield
        finally:
            JITFunction.run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prims"):
            raise Unable(f"{func.namespace}::{func.__name__} cannot be looked into")
        self.operations += not func.is_view
        return super().__torch_dispatch__(func, types, args, kwargs)


def _nowhere(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_meta


def _places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks that have data, as indices."""
    places: list[Tensor | None] = []
    for x in indices:
        mask = x is not None and x.dtype == torch.bool and not _nowhere(x)
        places.extend(x.nonzero().unbind(1) if mask else [x])
    return places


def _on(device: torch.device, tree: Any) -> Any:
    return tree_map_only(torch.device, lambda x: device if x == _GPU else x, tree)


def _without_numbers(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x if x.is_meta else x.to(_NOWHERE), tree)


def audit(contestant: Contestant, task: Task, shape: Shape = SHAPE) -> Audit:
    """One run on a dense step, in bfloat16.

    Raises:
        Unable, ImportError: the contestant does not compute the task.
        RuntimeError, NotImplementedError, TypeError: its operations cannot be followed.
    """
    if contestant.opaque:
        raise Unable("compiled, or its kernels multiply: not counted")
    # Log-probabilities have no data, and are read as 0. Clips then decide as usual.
    log_pi = torch.zeros(shape.rows, shape.length, dtype=torch.float64)
    tokens = torch.zeros(log_pi.shape, dtype=torch.long)
    hidden = torch.empty(*log_pi.shape, shape.hidden, dtype=torch.bfloat16, device=_NOWHERE)
    weight = torch.empty(shape.vocabulary, shape.hidden, dtype=torch.bfloat16, device=_NOWHERE)
    problem = Problem.random(task, "dense", Model(hidden, weight, tokens, log_pi, log_pi))
    forward = contestant.make(problem)
    if contestant.packed:
        hidden = hidden.flatten(0, 1)
    with _OnGpu(), _NoNumbers(), _Counted() as counts, counts.launches():
        loss, _ = forward(hidden.requires_grad_(), weight.requires_grad_())
        # `loss.backward()` would turn the mode off for the code that it runs.
        _engine_run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (),
            allow_unreachable=True, accumulate_grad=True,
        )  # fmt: skip
    units = counts.units(shape.tokens, shape.hidden, shape.vocabulary)
    return Audit(
        {str(dtype).removeprefix("torch."): round(n, 3) for dtype, n in units.items()},
        counts.moved / (shape.tokens * shape.vocabulary),
        counts.operations,
    )
