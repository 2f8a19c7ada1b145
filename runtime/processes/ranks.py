"""Several processes that train one policy, as `torchrun` starts them.

Each rank computes a share of the rows of every optimizer step. Their gradients are summed, not
averaged: the weights of an objective have the denominators of the whole step. The first rank alone
samples, reports and writes. Methods are collective: every rank has to call them, or all wait.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.runtime.processes.children import end_with_parent
from objdsl.step.gather import gather

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

CPU = torch.device("cpu")
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

# Timeouts of collectives: while all ranks compute, and while they wait for the first one to sample,
# which has its own deadlines. The death of a process is noticed at once.
COMPUTE_TIMEOUT = timedelta(minutes=10)
SAMPLING_TIMEOUT = timedelta(hours=6)

# Parts of gloo's error messages; its errors have no class of their own.
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out")


class RankError(ObjdslError, RuntimeError):
    """Another process of the run is gone."""


class FirstRankError(RankError):
    """The first process of the run has failed, and reports why."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a run; by default only this one.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        device: where this process computes.
        cpu_group: a group of all ranks for tensors on the CPU, with a long timeout; None for one
            process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    cpu_group: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def broadcast_object(self, make: Callable[[], T]) -> T:
        """Runs `make` on the first rank, and returns its result on every rank.

        Raises what `make` raises; on the other ranks, FirstRankError.
        """
        if self.size == 1:
            return make()
        message: list[Any] = [None, False]
        try:
            if self.first:
                message = [make(), True]
        finally:
            dist.broadcast_object_list(message, src=0, group=self.cpu_group, device=CPU)
        result, succeeded = message
        if not succeeded:
            raise FirstRankError("the first process of the run has failed; it reports why")
        return result  # type: ignore[no-any-return]

    def gather(self, local: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of all ranks, rank after rank; see `objdsl.step.gather.gather`."""
        if self.size == 1:
            return dict(local)
        world = dist.group.WORLD
        assert world is not None
        return gather(local, world)

    def gather_objects(self, local: T) -> list[T]:
        """An object of each rank, on every rank."""
        if self.size == 1:
            return [local]
        everything: list[Any] = [None] * self.size
        dist.all_gather_object(everything, local, group=self.cpu_group)
        return everything

    def all_reduce_sum(self, numbers: Iterable[float]) -> list[float]:
        """Each number, summed over the ranks."""
        total = torch.tensor([*numbers], dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total, group=self.cpu_group)
        return total.tolist()

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        largest = torch.tensor(number)
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.cpu_group)
        return int(largest)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copies the values of tensors from the first rank to all others, in place."""
        for x in tensors if self.size > 1 else ():
            dist.broadcast(x.detach(), src=0)

    # --- weights ----------------------------------------------------------------------------------

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients over the ranks. For sharded weights, backward has done it."""
        if self.size == 1:
            return
        replicated = [p for p in parameters if not isinstance(p, DTensor)]
        # An expert that no token of one rank was sent to may have a gradient on another.
        has_grad = torch.tensor([p.grad is not None for p in replicated], dtype=torch.uint8)
        dist.all_reduce(has_grad, dist.ReduceOp.MAX, group=self.cpu_group)
        pending = []
        for p, somewhere in zip(replicated, has_grad.tolist(), strict=True):
            if somewhere:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                pending.append(dist.all_reduce(p.grad, async_op=True))
        for work in pending:
            work.wait()

    def shard(self, model: nn.Module) -> None:
        """Shards the weights over the ranks (FSDP2), one transformer block at a time."""
        mesh = init_device_mesh(self.device.type, (self.size,))
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in model.modules():
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # A sum, not a mean; and without a scale factor, which gloo does not support.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


def full_tensor(x: Tensor) -> Tensor:
    """A tensor that may be sharded over the ranks, in one piece. Collective."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def shard_like(x: Tensor, weight: Tensor) -> Tensor:
    """A full tensor, sharded like a weight of its shape."""
    if not isinstance(weight, DTensor):
        return x
    return distribute_tensor(x.to(weight.device), weight.device_mesh, weight.placements)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that `torchrun` started; without torchrun, a group of one process.

    An existing process group is used as it is.

    Raises:
        RankError: another process is gone, so that nothing can be computed with it.
    """
    joins = not dist.is_initialized() and dist.is_torchelastic_launched()
    if joins:
        device = _join(device)
    if not dist.is_initialized():
        yield Ranks(device=device)
        return
    try:
        cpu_group = dist.new_group(backend="gloo", timeout=SAMPLING_TIMEOUT)
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, cpu_group)
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise RankError(
            f"another process of the run is gone ({_short(error)}); `--resume auto` resumes from "
            "the last checkpoint"
        ) from error
    finally:
        if joins:
            dist.destroy_process_group()


def _join(device: torch.device) -> torch.device:
    # If the launcher is killed, its ranks are asked to stop, and end with a checkpoint.
    end_with_parent(signal.SIGTERM)
    size, local_size = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if size == local_size:  # a run on one machine stays on the loopback interface
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    backend = "gloo"
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=COMPUTE_TIMEOUT)
    return device


def is_lost(error: Exception) -> bool:
    """Whether an error means that a different rank is gone."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(message in text for message in _LOST)


def _short(error: RuntimeError) -> str:
    """The first sentence, without the source location in torch."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[[^]]*\] *", "", line).partition(". ")[0]
