"""Applies the edits of findings to a text together, as far as they do not overlap."""

from __future__ import annotations

from collections.abc import Iterable

from objdsl.diagnostic import Diagnostic, Edit
from objdsl.source import Source


def fixed(source: Source, findings: Iterable[Diagnostic], *, unsafe: bool) -> tuple[Source, int]:
    """The text with the fixes that concern it, and how many were applied.

    A fix is applied completely or not at all; of two that overlap, the first one is. `unsafe` fixes
    change the objective.
    """
    edits: list[Edit] = []
    count = 0
    for finding in findings:
        fix = finding.fix
        if fix is None or not (fix.safe or unsafe):
            continue
        here = all(edit.span.source == source for edit in fix.edits)
        if here and not any(_overlap(a, b) for a in fix.edits for b in edits):
            edits += fix.edits
            count += 1
    text = source.text
    for edit in sorted(edits, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return Source(source.name, text), count


def _overlap(a: Edit, b: Edit) -> bool:
    """Whether the order of two edits would matter, as it does if both insert at one place."""
    return a.span == b.span or (a.span.start < b.span.end and b.span.start < a.span.end)
