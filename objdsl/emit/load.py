"""From emitted source to callable functions."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from objdsl.emit import kernels
from objdsl.emit.stages import Layout
from objdsl.emit.torch_source import Program, emit
from objdsl.ir.objective import Objective


@dataclass(frozen=True)
class Compiled:
    """The functions of an emitted program; see `torch_source` for what each one does."""

    program: Program
    prepare: Callable[..., dict[str, Any]]
    couple: Callable[..., dict[str, Any]] | None
    objective: Callable[..., tuple[Any, dict[str, Any], dict[str, Any]]]


def load(ir: Objective, layout: Layout) -> Compiled:
    """Emits an objective and makes its functions callable. Tracebacks show the emitted lines."""
    program = emit(ir, layout, kernels)
    return _execute(program, f"<objdsl {ir.name} {ir.digest} {layout}>")


@cache
def _execute(program: Program, filename: str) -> Compiled:
    namespace: dict[str, Any] = {"__name__": filename}
    linecache.cache[filename] = (
        len(program.source),
        None,
        program.source.splitlines(keepends=True),
        filename,
    )
    exec(compile(program.source, filename, "exec"), namespace)
    return Compiled(
        program,
        cast(Callable[..., dict[str, Any]], namespace["prepare"]),
        namespace.get("couple"),
        namespace["objective"],
    )
