"""A diagnostic for a person at a terminal."""

from __future__ import annotations

from objdsl.diagnostic import Diagnostic


def render(diagnostic: Diagnostic, *, color: bool = False, width: int = 100) -> str:
    where = ""
    if diagnostic.span is not None:
        span = diagnostic.span
        where = f"\n --> {span.source.name}:{span.line}:{span.column}"
    return f"{diagnostic.severity}[{diagnostic.code} {diagnostic.name}]: {diagnostic.message}{where}"
