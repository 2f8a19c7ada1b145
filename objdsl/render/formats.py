"""Findings for programs: a line each, GitHub annotations, JSON, SARIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from objdsl.diagnostic import Diagnostic, Fix, Severity
from objdsl.source import Span, visible

JSON_VERSION = 1
_SARIF = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def concise(found: Sequence[Diagnostic]) -> str:
    """`grpo.obj:15:26: warning[OBJ101 length-normalisation]: each response's ...`"""
    lines = (
        f"{_place(one.span)}: {one.severity}[{one.code} {one.name}]: {one.message}" for one in found
    )
    return "".join(" ".join(line.splitlines()) + "\n" for line in lines)


def github(found: Sequence[Diagnostic]) -> str:
    """Workflow commands, which GitHub shows beside the lines of a change."""
    lines = []
    for one in found:
        where = f"title={_property(f'{one.code} {one.name}')}"
        if one.span is not None:
            line, column = one.span.line, one.span.column
            where = f"file={_property(one.span.source.name)},line={line},col={column},{where}"
        lines.append(f"::{_GITHUB[one.severity]} {where}::{_escaped(_sentences(one))}\n")
    return "".join(lines)


def as_json(found: Sequence[Diagnostic], suppressed: int = 0) -> str:
    """One object; docs/findings.schema.json describes it."""
    summary = {str(kind): sum(one.severity is kind for one in found) for kind in Severity}
    report = {
        "version": JSON_VERSION,
        "summary": {**summary, "suppressed": suppressed},
        "findings": [_finding(one) for one in found],
    }
    return json.dumps(report, indent=2) + "\n"


def _finding(one: Diagnostic) -> dict[str, Any]:
    return {
        "rule": one.name,
        "code": one.code,
        "severity": str(one.severity),
        "certainty": str(one.certainty),
        "claim": str(one.claim),
        "message": one.message,
        "location": _range(one.span) if one.span else None,
        "labels": [{**_range(label.span), "text": label.text} for label in one.labels],
        "weight": one.weight,
        "consequence": one.consequence,
        "value": one.value,
        "gradient": one.gradient,
        "help": one.help,
        "fine_if": one.fine_if,
        "fix": one.fix and _fix(one.fix),
        "choices": [_fix(choice) for choice in one.choices],
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "title": fix.title,
        "safe": fix.safe,
        "edits": [{**_range(edit.span), "text": edit.text} for edit in fix.edits],
    }


def _range(span: Span) -> dict[str, Any]:
    """Lines and columns from 1; the end is the first character after it."""
    line, column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": line,
        "end_column": column,
    }


def sarif(found: Sequence[Diagnostic], pages: Mapping[str, str], version: str) -> str:
    """SARIF 2.1.0, for code scanning. `pages` are the rules' texts by name."""
    names = sorted({one.name for one in found})
    codes = {one.name: one.code for one in found}
    rules = [
        {
            "id": codes[name],
            "name": name,
            "shortDescription": {"text": pages.get(name, name).split("\n")[0] or name},
            "help": {"text": pages.get(name, name), "markdown": pages.get(name, name)},
        }
        for name in names
    ]
    results = [
        {
            "ruleId": one.code,
            "ruleIndex": names.index(one.name),
            "level": str(one.severity),
            "message": {"text": _sentences(one)},
            "locations": [_location(one.span)] if one.span else [],
            "relatedLocations": [
                {**_location(label.span), "message": {"text": label.text}} for label in one.labels
            ],
            "fixes": [_changes(fix) for fix in (one.fix, *one.choices) if fix],
            "properties": {"claim": str(one.claim), "certainty": str(one.certainty)},
        }
        for one in found
    ]
    driver = {"name": "objdsl", "semanticVersion": version, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    report = {"$schema": _SARIF, "version": "2.1.0", "runs": [run]}
    return json.dumps(report, indent=2) + "\n"


def _location(span: Span) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": _artifact(span), "region": _region(span)}}


def _artifact(span: Span) -> dict[str, str]:
    """A file as a URI: below the current folder it is relative to it."""
    path = Path(span.source.name)
    return {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}


def _region(span: Span) -> dict[str, int]:
    place = _range(span)
    return {
        "startLine": place["line"],
        "startColumn": place["column"],
        "endLine": place["end_line"],
        "endColumn": place["end_column"],
    }


def _changes(fix: Fix) -> dict[str, Any]:
    changes = [
        {
            "artifactLocation": _artifact(edit.span),
            "replacements": [
                {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}}
            ],
        }
        for edit in fix.edits
    ]
    return {"description": {"text": fix.title}, "artifactChanges": changes}


def _sentences(one: Diagnostic) -> str:
    """What is shown where there is room for a line or two."""
    choices = " or ".join(choice.title for choice in one.choices)
    parts = (one.message, one.consequence, one.help, choices)
    return ". ".join(_without_stop(part) for part in parts if part)


def _without_stop(text: str) -> str:
    """A sentence without its full stop; the dots of what is left out stay."""
    return text if text.endswith("...") else text.removesuffix(".")


def _place(span: Span | None) -> str:
    return f"{span.source.name}:{span.line}:{span.column}" if span else "objdsl"


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
