"""The functions of which emitted code carries a copy, as text: importing them would import torch,
or Triton."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def torch_helpers() -> dict[str, str]:
    """The functions of `objdsl.emit.kernels` by name, without annotations, which would only
    distract a reader."""
    blocks = _text("kernels.py").split("\ndef ")[1:]
    return {block.split("(", 1)[0]: _untyped(f"def {block.rstrip()}") for block in blocks}


@cache
def triton_helpers() -> dict[str, str]:
    """The functions of `objdsl.emit.triton_kernels` by name."""
    blocks = {}
    for block in _text("triton_kernels.py").split("\n\n\n@triton.jit\n")[1:]:
        body = block.split("\n\n\n# ---")[0].replace("  # fmt: skip", "").rstrip()
        blocks[body.removeprefix("def ").split("(", 1)[0]] = f"@triton.jit\n{body}"
    return blocks


def called(blocks: Mapping[str, str], body: str) -> list[str]:
    """The functions that a body calls, and those that they call, in order.

    Args:
        blocks: the text of each function, by its name.
    """
    wanted: set[str] = set()
    texts = [body]
    while texts:
        names = set(re.findall(r"\b(\w+)\(", texts.pop()))
        for name in (names & blocks.keys()) - wanted:
            wanted.add(name)
            texts.append(blocks[name].split(f"def {name}(", 1)[1])
    return [block for name, block in blocks.items() if name in wanted]


def _text(name: str) -> str:
    return (files("objdsl.emit") / name).read_text(encoding="utf-8")


def _untyped(block: str) -> str:
    head, rest = block.split(":\n", 1)
    name, arguments = head.split("(", 1)
    arguments = arguments.rsplit(")", 1)[0]
    names = [a.split(":")[0].strip() for a in arguments.split(",") if a.strip()]
    return f"{name}({', '.join(names)}):\n{rest}"
