"""The pages of tests/lint/rules: objectives on which a rule fires or is silent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from objdsl import driver
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Diagnostic
from objdsl.lint.rule import Rule
from objdsl.source import Source

PAGES = Path(__file__).parents[1] / "lint" / "rules"
BLOCK = re.compile(r"```obj\n(?P<obj>.*?)```\n(\n```text\n(?P<text>.*?)```\n)?", re.S)


@dataclass(frozen=True)
class Case:
    """One objective of a page, and the expected output of the rule."""

    fires: bool
    obj: str
    text: str | None


def cases(page: str) -> Iterator[Case]:
    fires, silent = page.split("## silent\n")
    for part, expected in ((fires, True), (silent, False)):
        for match in BLOCK.finditer(part):
            yield Case(expected, match["obj"], match["text"])


def findings_of(rule: Rule, obj: str) -> list[Diagnostic]:
    objective = driver.compile_source(Source("example.obj", obj))
    return list(rule(Facts(objective)))
