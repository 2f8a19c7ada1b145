"""verl's own workers on a CPU: a platform of its registry, and its worker with a tiny model.

Named in `VERL_USE_EXTERNAL_MODULES`, so that it is imported in every process of verl.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform import PlatformRegistry
from verl.plugin.platform.platform_base import PlatformBase

from helpers.absent import without


@PlatformRegistry.register(platform="cpu")  # type: ignore[untyped-decorator]
class PlatformCPU(PlatformBase):  # type: ignore[misc]
    device_name = vendor_name = "cpu"
    device_module = SimpleNamespace(
        get_device_name=lambda: "CPU",
        max_memory_allocated=lambda: 0,
        max_memory_reserved=lambda: 0,
        memory_allocated=lambda: 0,
        memory_reserved=lambda: 0,
        mem_get_info=lambda: (0, 1),
        empty_cache=lambda: None,
        synchronize=lambda: None,
        current_device=lambda: "cpu",
        set_device=lambda device: None,
    )

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...
    def synchronize(self, device_index: int | None = None) -> None: ...
    def manual_seed(self, seed: int) -> None: ...
    def manual_seed_all(self, seed: int) -> None: ...
    def set_allocator_settings(self, settings: str) -> None: ...
    def empty_cache(self) -> None: ...
    def profiler_start(self) -> None: ...
    def profiler_stop(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "NO_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


without("uvicorn", "torchdata", "torchdata.stateful_dataloader", "trl.experimental.ppo")
