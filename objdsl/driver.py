"""The pipeline, one function a stage: what the command line, the Python face and editors call."""

from __future__ import annotations

from functools import cache

from objdsl import gallery
from objdsl.elaborate import elaborate
from objdsl.ir.objective import Objective
from objdsl.source import Source, Span
from objdsl.syntax import tree
from objdsl.syntax.parse import parse


@cache
def prelude() -> tree.File:
    """The parsed `std.obj`."""
    return parse(gallery.bundled(gallery.PRELUDE))


def compile_source(source: Source) -> Objective:
    """The formula of a text.

    Raises:
        ObjectiveError: with every error that the text holds.
    """
    return elaborate(parse(source), prelude(), _base)


def _base(name: str, span: Span) -> tree.File:
    return parse(gallery.base(name, span))
