"""From emitted source to callable functions."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import blake2b
from types import ModuleType
from typing import Any

from objdsl.emit import triton_source
from objdsl.emit.stages import Layout
from objdsl.emit.torch_source import Program, Values, emit, emit_states, emit_values
from objdsl.emit.triton_source import Kernel
from objdsl.frozen import dataclass
from objdsl.ir.nodes import Expr
from objdsl.ir.objective import Objective


@dataclass(frozen=True)
class Compiled:
    """The functions of an emitted program; see `torch_source` for what each one does."""

    program: Program
    prepare: Callable[..., dict[str, Any]]
    couple: Callable[..., dict[str, Any]] | None
    objective: Callable[..., tuple[Any, dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class CompiledValues:
    """The functions of emitted expressions."""

    program: Values
    prepare: Callable[..., dict[str, Any]]
    values: Callable[..., dict[str, Any]]


def load(ir: Objective, layout: Layout) -> Compiled:
    """Emits an objective and makes its functions callable. Tracebacks show the emitted lines."""
    program = emit(ir, layout)
    module = _module(program.source, f"<objdsl {ir.name} {ir.digest} {layout}>")
    return Compiled(program, module["prepare"], module.get("couple"), module["objective"])


def load_values(ir: Objective, values: Mapping[str, Expr], layout: Layout) -> CompiledValues:
    """Emits expressions and makes their functions callable; see `torch_source.emit_values`."""
    program = emit_values(ir, values, layout)
    digest = "".join(x.key.hex() for x in values.values())
    module = _module(program.source, f"<objdsl {ir.name} {', '.join(values)} {digest} {layout}>")
    return CompiledValues(program, module["prepare"], module["values"])


def load_states(ir: Objective, layout: Layout) -> CompiledValues:
    """Emits the next values of states and makes their function callable; see
    `torch_source.emit_states`."""
    program = emit_states(ir, layout)
    module = _module(program.source, f"<objdsl {ir.name} {ir.digest} states {layout}>")
    return CompiledValues(program, module["advance"], module["advance"])


def load_kernel(ir: Objective) -> tuple[Kernel, Any]:
    """Emits the Triton kernel of an objective, and makes it callable.

    Raises:
        NotElementwiseError: the weight of a token needs more than that token.
    """
    kernel = triton_source.emit(ir)
    return kernel, _module(kernel.source, f"<objdsl {ir.name} {ir.digest} triton>")["head"]


@cache
def _module(source: str, filename: str) -> dict[str, Any]:
    """What a module defines. Its text is kept, for tracebacks and for Triton to read; the
    module is among `sys.modules`, where `torch.compile` looks for the globals of a function."""
    module = ModuleType(f"objdsl.emitted.{blake2b(source.encode(), digest_size=16).hexdigest()}")
    module.__file__ = filename
    sys.modules[module.__name__] = module
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module.__dict__
