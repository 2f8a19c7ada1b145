"""The shape of `objdsl check --output-format json`, for programs that read it.

docs/findings.schema.json is made from these models; tests hold what is printed against them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Range(_Strict):
    """A piece of text; lines and columns from 1, the end is the first character after it."""

    file: str
    line: int = Field(ge=1)
    column: int = Field(ge=1)
    end_line: int = Field(ge=1)
    end_column: int = Field(ge=1)


class Labelled(Range):
    """A second place, with what it has to do with the finding."""

    text: str


class Edit(Range):
    """The range is to be replaced by the text."""

    text: str


class Fix(_Strict):
    """Edits that remove the finding; a safe one leaves the objective as it is."""

    title: str
    safe: bool
    edits: list[Edit]


class Finding(_Strict):
    """One statement about an objective. Texts are empty where there is nothing to say."""

    rule: str
    code: str = Field(pattern=r"^OBJ\d{3}$")
    severity: Literal["error", "warning", "note"]
    certainty: Literal["proven", "likely"]
    claim: Literal[
        "direction", "prompt-weights", "off-policy", "penalty", "numerics", "style", "language"
    ]
    message: str
    location: Range | None
    labels: list[Labelled]
    weight: str
    consequence: str
    value: str
    gradient: str
    help: str
    fine_if: str
    fix: Fix | None
    choices: list[Fix] = Field(
        description="What the text may have meant: its writer takes one, --fix takes none."
    )


class Summary(_Strict):
    """How many findings there are of each severity, and how many comments accept."""

    error: int
    warning: int
    note: int
    suppressed: int


class Report(_Strict):
    """What `objdsl check --output-format json` prints."""

    version: Literal[1]
    summary: Summary
    findings: list[Finding]
