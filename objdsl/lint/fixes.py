"""Fixes to a text: the edits of findings, applied together as far as they do not overlap."""

from __future__ import annotations

from collections.abc import Iterable

from objdsl.diagnostic import Diagnostic, Edit
from objdsl.source import Source


def fixed(source: Source, findings: Iterable[Diagnostic], *, unsafe: bool) -> tuple[Source, int]:
    """The text with the fixes that touch it, and how many were made.

    A fix is made whole or not at all; of two that overlap the first one is. `unsafe` ones change
    the objective.
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
    """Whether the order of two edits would matter; so it does where both insert."""
    return a.span == b.span or (a.span.start < b.span.end and b.span.start < a.span.end)
