"""Findings for programs: a line each, GitHub annotations, JSON, SARIF."""

from __future__ import annotations

import json
import re
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


def concise(findings: Sequence[Diagnostic]) -> str:
    """`grpo.obj:15:26: warning[OBJ101 length-normalisation]: each response's ...`"""
    lines = (
        f"{_place(finding.span)}: {finding.severity}[{finding.code} {finding.name}]: "
        f"{finding.message}"
        for finding in findings
    )
    return "".join(" ".join(line.splitlines()) + "\n" for line in lines)


def github(findings: Sequence[Diagnostic]) -> str:
    """Workflow commands, which GitHub shows beside the lines of a change."""
    lines = []
    for finding in findings:
        where = f"title={_property(f'{finding.code} {finding.name}')}"
        if finding.span is not None:
            line, column = finding.span.line, finding.span.column
            where = f"file={_property(finding.span.source.name)},line={line},col={column},{where}"
        lines.append(f"::{_GITHUB[finding.severity]} {where}::{_escaped(_sentences(finding))}\n")
    return "".join(lines)


def as_json(findings: Sequence[Diagnostic], suppressed: int = 0) -> str:
    """One object; docs/findings.schema.json describes it."""
    summary = {
        str(kind): sum(finding.severity is kind for finding in findings) for kind in Severity
    }
    report = {
        "version": JSON_VERSION,
        "summary": {**summary, "suppressed": suppressed},
        "findings": [_finding(finding) for finding in findings],
    }
    return json.dumps(report, indent=2) + "\n"


def _finding(finding: Diagnostic) -> dict[str, Any]:
    return {
        "rule": finding.name,
        "code": finding.code,
        "severity": str(finding.severity),
        "certainty": str(finding.certainty),
        "claim": str(finding.claim),
        "message": finding.message,
        "location": _range(finding.span) if finding.span else None,
        "labels": [{**_range(label.span), "text": label.text} for label in finding.labels],
        "weight": finding.weight,
        "consequence": finding.consequence,
        "value": finding.value,
        "gradient": finding.gradient,
        "help": finding.help,
        "fine_if": finding.fine_if,
        "fix": finding.fix and _fix(finding.fix),
        "choices": [_fix(choice) for choice in finding.choices],
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


def sarif(findings: Sequence[Diagnostic], pages: Mapping[str, str], version: str) -> str:
    """SARIF 2.1.0, for code scanning. `pages` are the rules' texts by name."""
    names = sorted({finding.name for finding in findings})
    codes = {finding.name: finding.code for finding in findings}
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
            "ruleId": finding.code,
            "ruleIndex": names.index(finding.name),
            "level": str(finding.severity),
            "message": {"text": _sentences(finding)},
            "locations": [_location(finding.span)] if finding.span else [],
            "relatedLocations": [
                {**_location(label.span), "message": {"text": label.text}}
                for label in finding.labels
            ],
            "fixes": [_changes(fix) for fix in (finding.fix, *finding.choices) if fix],
            "properties": {"claim": str(finding.claim), "certainty": str(finding.certainty)},
        }
        for finding in findings
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


def _sentences(finding: Diagnostic) -> str:
    """What is shown where there is room for a line or two."""
    choices = " or ".join(choice.title for choice in finding.choices)
    if len(finding.choices) > 1:
        choices = f"either {choices}"
    parts = (finding.message, finding.consequence, finding.help, choices)
    return " ".join(_sentence(part) for part in parts if part)


def _sentence(text: str) -> str:
    """A capital letter at the beginning, unless that is a name, and a full stop at the end."""
    if re.match(r"[a-z]+(?:[\s,:;](?! *=)|$)", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _place(span: Span | None) -> str:
    return f"{span.source.name}:{span.line}:{span.column}" if span else "objdsl"


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
