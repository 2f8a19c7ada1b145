"""Several processes that train one policy, as `torchrun` starts them.

Each rank computes a share of the rows of every optimizer step. Their gradients are summed, not
averaged: the weights of an objective have the denominators of the whole step. The first rank alone
samples, tells and writes. Methods are collective: every rank calls them, or all wait.
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
from objdsl.gather import gather
from objdsl.runtime.processes import end_with_parent

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

CPU = torch.device("cpu")
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

# How long ranks that compute the same wait for each other, and all of them for the first one while
# it samples, which has deadlines of its own. A process that dies is noticed at once.
TOGETHER = timedelta(minutes=10)
PATIENCE = timedelta(hours=6)

# What gloo says, in an error of no class of its own.
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out")


class RankError(ObjdslError, RuntimeError):
    """Another process of the run is gone."""


class FirstRankError(RankError):
    """The first process of the run has failed, and tells why; all of them know."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a run, and which of them this is. By default there is one.

    Attributes:
        number: of this process, from 0.
        many: processes.
        device: where this one computes.
        patient: a group of all ranks for what is on the CPU, whose members wait long; None for one
            rank.
    """

    number: int = 0
    many: int = 1
    device: torch.device = CPU
    patient: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.number == 0

    def tell(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank.

        Raises what `make` raises, and FirstRankError on the other ranks.
        """
        if self.many == 1:
            return make()
        said: list[Any] = [None, "failed"]
        try:
            if self.first:
                said = [make(), "made"]
        finally:
            dist.broadcast_object_list(said, src=0, group=self.patient, device=CPU)
        made, how = said
        if how == "failed":
            raise FirstRankError("the first process of the run cannot go on; it says why")
        return made  # type: ignore[no-any-return]

    def gather(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of all ranks, rank after rank; see `objdsl.gather.gather`."""
        if self.many == 1:
            return dict(own)
        world = dist.group.WORLD
        assert world is not None
        return gather(own, world)

    def sum(self, numbers: Iterable[float]) -> list[float]:
        """Each number, added over the ranks."""
        total = torch.tensor([*numbers], dtype=torch.float64)
        if self.many > 1:
            dist.all_reduce(total, group=self.patient)
        return total.tolist()

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        found = torch.tensor(number)
        if self.many > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.patient)
        return int(found)

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors the values that they have on the first rank."""
        for x in tensors if self.many > 1 else ():
            dist.broadcast(x.detach(), src=0)

    # --- weights ----------------------------------------------------------------------------------

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients over the ranks. Where weights are spread, backward has done it."""
        if self.many == 1:
            return
        whole = [p for p in parameters if not isinstance(p, DTensor)]
        # An expert that no token of one rank was sent to may have a gradient on another.
        some = torch.tensor([p.grad is not None for p in whole], dtype=torch.uint8)
        dist.all_reduce(some, dist.ReduceOp.MAX, group=self.patient)
        pending = []
        for p, has in zip(whole, some.tolist(), strict=True):
            if has:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                pending.append(dist.all_reduce(p.grad, async_op=True))
        for work in pending:
            work.wait()

    def spread(self, model: nn.Module) -> None:
        """Leaves a part of each weight on each rank (FSDP2), block by block of a transformer."""
        mesh = init_device_mesh(self.device.type, (self.many,))
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in model.modules():
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # A sum, not a mean; not by way of a factor either, which gloo does not know.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


def whole(x: Tensor) -> Tensor:
    """A tensor that may be spread over the ranks, in one place. Collective."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def spread_as(x: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor, spread as a weight of its shape is."""
    if not isinstance(weight, DTensor):
        return x
    return distribute_tensor(x.to(weight.device), weight.device_mesh, weight.placements)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that `torchrun` started; a process by itself is alone.

    A group that exists already is used as it is.

    Raises:
        RankError: another process is gone, so that nothing can be computed with it.
    """
    ours = not dist.is_initialized() and dist.is_torchelastic_launched()
    if ours:
        device = _join(device)
    if not dist.is_initialized():
        yield Ranks(device=device)
        return
    try:
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, patient)
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise RankError(
            f"another process of the run is gone ({_short(error)}); `--resume auto` goes on from "
            "the last checkpoint"
        ) from error
    finally:
        if ours:
            dist.destroy_process_group()


def _join(device: torch.device) -> torch.device:
    # Ranks whose launcher is killed are told to stop, and end with a checkpoint.
    end_with_parent(signal.SIGTERM)
    many, here = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if many == here:  # nothing of a run on one machine leaves it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    backend = "gloo"
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TOGETHER)
    return device


def is_lost(error: Exception) -> bool:
    """Whether an error says that another rank is gone."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(words in text for words in _LOST)


def _short(error: RuntimeError) -> str:
    """The first sentence, without the place in the source of torch."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[[^]]*\] *", "", line).partition(". ")[0]
