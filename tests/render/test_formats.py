"""Output for programs: the same findings as JSON, SARIF, annotations and lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from objdsl import driver
from objdsl.diagnostic import Diagnostic, Edit, Fix, Label, Severity
from objdsl.lint.run import pages
from objdsl.objectives import gallery
from objdsl.render import formats
from objdsl.render.schema import Report
from objdsl.source import Source, Span

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "findings.schema.json"

# --- SARIF 2.1.0, as far as it is used ------------------------------------------------------------
# The standard's objects with the properties that are written, by the sections that define them.
# Nothing else may be there, and texts may not be empty.

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class Sarif(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Sarif):  # 3.11
    text: Text


class MultiformatMessage(Sarif):  # 3.12
    text: Text
    markdown: Text


class ArtifactLocation(Sarif):  # 3.4: a URI reference, RFC 3986
    uri: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+$")]


class Region(Sarif):  # 3.30: the end column is the one after the last character
    startLine: Count
    startColumn: Count
    endLine: Count
    endColumn: Count


class PhysicalLocation(Sarif):  # 3.29
    artifactLocation: ArtifactLocation
    region: Region


class Location(Sarif):  # 3.28
    physicalLocation: PhysicalLocation


class RelatedLocation(Location):
    message: Message


class Replacement(Sarif):  # 3.57
    deletedRegion: Region
    insertedContent: dict[Literal["text"], str]  # 3.3


class ArtifactChange(Sarif):  # 3.56
    artifactLocation: ArtifactLocation
    replacements: Annotated[list[Replacement], Field(min_length=1)]


class FixObject(Sarif):  # 3.55
    description: Message
    artifactChanges: Annotated[list[ArtifactChange], Field(min_length=1)]


class Result(Sarif):  # 3.27
    ruleId: Text
    ruleIndex: Annotated[int, Field(ge=0)]
    level: Literal["error", "warning", "note"]
    message: Message
    locations: list[Location]
    relatedLocations: list[RelatedLocation]
    fixes: list[FixObject]
    properties: dict[str, str]  # 3.8, a property bag


class ReportingDescriptor(Sarif):  # 3.49
    id: Text
    name: Text
    shortDescription: Message
    help: MultiformatMessage


class ToolComponent(Sarif):  # 3.19
    name: Literal["objdsl"]
    semanticVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+([-+].+)?$")]
    rules: list[ReportingDescriptor]


class Tool(Sarif):  # 3.18
    driver: ToolComponent


class Run(Sarif):  # 3.14
    tool: Tool
    columnKind: Literal["unicodeCodePoints"]
    results: list[Result]


class SarifLog(Sarif):  # 3.13
    schema_: Annotated[str, Field(alias="$schema", pattern=r"^https://docs\.oasis-open\.org/")]
    version: Literal["2.1.0"]
    runs: Annotated[list[Run], Field(min_length=1, max_length=1)]


def sarif(findings: list[Diagnostic]) -> Run:
    printed = formats.sarif(findings, {page.name: page.doc for page in pages()}, "1.2.3")
    return SarifLog.model_validate_json(printed).runs[0]


# --- what is printed ------------------------------------------------------------------------------


def everything(name: str) -> list[Diagnostic]:
    checked = driver.check(gallery.find(name))
    return [*checked.findings, *checked.suppressed]


@pytest.mark.parametrize("name", gallery.names())
def test_whatever_is_found_has_the_shape_of_its_standard(name: str) -> None:
    findings = everything(name)
    run = sarif(findings)
    assert len(run.results) == len(findings)
    for result, finding in zip(run.results, findings, strict=True):
        rule = run.tool.driver.rules[result.ruleIndex]
        assert (rule.id, rule.name) == (result.ruleId, finding.name)
    report = json.loads(formats.as_json(findings))
    Report.model_validate(report, strict=True)
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(report)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    report: dict[str, Any] = json.loads(formats.as_json(everything("grpo")))
    for change in ({"version": 2}, {"findings": [{}]}, {"more": 1}):
        assert not validator.is_valid({**report, **change})


TEXT = Source("sub folder/ü%,:.obj", "objective x\nA = mean[i,\n  t] r\n")


def finding(**details: Any) -> Diagnostic:
    span = Span(TEXT, 16, 28)
    return Diagnostic("a-rule", "OBJ101", Severity.NOTE, "a\nb", span, **details)


def test_places_are_what_editors_show() -> None:
    """Lines and columns count from 1; a tab or a letter outside ASCII counts as one; the end is
    exclusive."""
    label = Label(Span(TEXT, 12, 13), "here")
    fix = Fix("do", (Edit(Span(TEXT, 16, 16), "x"), Edit(Span(TEXT, 28, 29), "")))
    (result,) = sarif([finding(labels=(label,), fix=fix)]).results
    region = result.locations[0].physicalLocation.region
    assert region == Region(startLine=2, startColumn=5, endLine=3, endColumn=5)
    assert result.relatedLocations[0].physicalLocation.region.endColumn == 2
    first, second = (change.replacements[0] for change in result.fixes[0].artifactChanges)
    assert first.deletedRegion == Region(startLine=2, startColumn=5, endLine=2, endColumn=5)
    assert first.insertedContent == {"text": "x"}
    assert second.insertedContent == {"text": ""}


def test_any_path_is_a_uri() -> None:
    uri = sarif([finding()]).results[0].locations[0].physicalLocation.artifactLocation.uri
    assert unquote(uri) == TEXT.name
    absolute = Source("/tmp/<a> b.obj", "x")
    alone = Diagnostic("a-rule", "OBJ101", Severity.ERROR, "a", Span(absolute, 0, 1))
    parts = urlsplit(sarif([alone]).results[0].locations[0].physicalLocation.artifactLocation.uri)
    assert (parts.scheme, unquote(parts.path)) == ("file", absolute.name)


def test_annotations_are_one_line_each_whatever_they_say() -> None:
    lines = formats.github([finding(help="50% :, more"), finding()]).splitlines()
    assert lines[0] == (
        "::notice file=sub folder/ü%25%2C%3A.obj,line=2,col=5,title=OBJ101 a-rule::"
        "A%0Ab. 50%25 :, more."
    )
    assert len(lines) == 2


def test_annotations_are_sentences() -> None:
    choices = (Fix("`a`", ()), Fix("`b`", ()))
    spoken = finding(consequence="one is 0", help="lambda = 1", fine_if="", choices=choices)
    assert formats.github([spoken]).endswith("::A%0Ab. One is 0. lambda = 1. Either `a` or `b`.\n")


def test_a_finding_without_a_place() -> None:
    findings = [Diagnostic("a-rule", "OBJ101", Severity.ERROR, "gone", None)]
    assert formats.concise(findings) == "objdsl: error[OBJ101 a-rule]: gone\n"
    assert formats.github(findings) == "::error title=OBJ101 a-rule::Gone.\n"
    assert sarif(findings).results[0].locations == []
    assert json.loads(formats.as_json(findings))["findings"][0]["location"] is None


def test_concise_is_a_line_each() -> None:
    assert formats.concise([finding(), finding()]).count("\n") == 2
