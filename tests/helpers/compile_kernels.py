"""The output of Triton's compiler for the kernels, as a JSON object; no GPU is needed.

tests/fused/triton/test_compiled.py runs this in a fresh process, without the interpreter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import objdsl
from helpers.fused_steps import PARAMS, scene
from objdsl.emit import triton_kernels
from objdsl.fused.head import Head
from objdsl.fused.triton import with_objective

TYPES = {
    "rows": "*i64", "target": "*i64", "kept": "*i1", "first": "i32", "stride": "i32",
    "grad_stride": "i32", "kept_stride": "i32", "V": "i32", "grad": "*bf16",
}  # fmt: skip
HEAD = ("bias", "kept", "softcap", "temperature")
TARGET = GPUTarget("cuda", 90, 32)


def compiled(kernel: Any, types: dict[str, str], none: tuple[str, ...] = ()) -> dict[str, Any]:
    """The registers of a kernel, the bytes that it spills, and the widths of offsets between
    tokens."""
    signature, constants, aligned = {}, {}, {}
    for k, name in enumerate(kernel.arg_names):
        if name in none or name == "BLOCK":
            signature[name], constants[(k,)] = "constexpr", None if name in none else 4096
        else:
            signature[name] = types.get(name, "*fp32")
            aligned[(k,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    artifact = triton.compile(source, TARGET, {"num_warps": 8})
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(artifact.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run(
            [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "spilled": int(re.search(r"LOCAL:(\d+)", usage)[1]),  # type: ignore[index]
        "offsets": _offsets(artifact.asm["ttir"]),
    }


def _offsets(code: str) -> dict[str, str]:
    """The types of the numbers that are added to each pointer argument of a kernel."""
    return dict(re.findall(r"tt\.addptr %([a-zA-Z]\w*), %\S+ : !tt\.ptr<\w+>, (\w+)", code))


def kernel_of(name: str) -> tuple[Any, dict[str, str]]:
    """The kernel of an objective, and the types of its arguments in a real step."""
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    data = scene(objective, packed=True)
    columns = {k: x for k, x in data["columns"].items() if k not in objective.live}
    step = objective.prepare(**columns, **data["rows"], dtype=torch.float32)
    trained = {k: data["columns"][k].float() for k in objective.live[1:]}
    kernel, head = objective.fused_loss.kernel  # type: ignore[misc]
    scored = with_objective(kernel, head, step, objective.params, trained, Head(torch.zeros(2, 2)))
    names = head.arg_names[head.arg_names.index("log_pi") + 1 + (scored.terms is not None) :]
    types = {torch.bool: "*i1", torch.float32: "*fp32", torch.int64: "*i64"}
    return head, {k: types[x.dtype] for k, x in zip(names, scored.inputs, strict=False)}


def main() -> None:
    reports: dict[str, Any] = {}
    for kernel in (triton_kernels.score, triton_kernels.gradient):
        reports[kernel.__name__] = compiled(kernel, TYPES)
        plain = (*HEAD, "entropy") if kernel is triton_kernels.score else HEAD
        reports[f"{kernel.__name__}, plain"] = compiled(kernel, TYPES, plain)
    for name in sys.argv[1:]:
        kernel, types = kernel_of(name)
        reports[name] = compiled(kernel, {**TYPES, **types}, HEAD)
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
