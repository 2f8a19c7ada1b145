"""Every code has one page, and the examples of a page are right."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import objdsl
from objdsl import driver
from objdsl.codes import COMMENT_PAGES, LANGUAGE_PAGES, Page, by_name
from objdsl.lint.run import pages
from objdsl.source import Source

# What the text of an objective cannot show: these are about files, configurations and LaTeX.
OF_FILES = {
    "not-an-objective", "too-large", "nested-too-deeply", "unreadable-file", "cyclic-base",
    "malformed-ir", "not-in-the-language", "unreadable-config", "unreadable-tex",
}  # fmt: skip


def block(page: Page, heading: str) -> str:
    _, _, rest = page.doc.partition(f"**{heading}.**\n\n")
    lines = re.match(r"(?:    .*\n)*", rest)
    assert lines is not None
    return re.sub(r"^    ", "", lines[0], flags=re.MULTILINE)


@pytest.mark.parametrize("page", LANGUAGE_PAGES, ids=lambda page: page.name)
def test_the_example_is_one_and_its_remedy_an_objective(page: Page) -> None:
    example, instead = block(page, "Example"), block(page, "Instead")
    assert bool(example) == bool(instead) == (page.name not in OF_FILES)
    if example:
        head = "" if example.startswith("objective") else "objective x\n"
        findings = driver.check(Source("x.obj", head + example)).findings
        assert [(finding.name, finding.code) for finding in findings] == [(page.name, page.code)]
        assert driver.check(Source("x.obj", head + instead)).objective is not None


def test_every_code_has_a_page() -> None:
    """Including those that are written where they are reported, and not in a table."""
    code = Path(objdsl.__file__).parent
    named = {
        (match[1], match[2])
        for path in code.rglob("*.py")
        for match in re.finditer(
            r'"([a-z0-9-]+)",?:?\s+"(OBJ\d{3})"', path.read_text(encoding="utf-8")
        )
    }
    assert named == {(page.name, page.code) for page in pages()}


def test_names_and_codes_are_used_once() -> None:
    first, second = COMMENT_PAGES[:2]
    for change in ({"name": second.name}, {"code": second.code}):
        with pytest.raises(ValueError, match="is already taken"):
            by_name([first, second, replace(first, **{"name": "x", "code": "OBJ000"} | change)])
    assert all(len(page.summary) <= 100 for page in pages())
