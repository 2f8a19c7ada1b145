"""Every rule fires where it should, and is silent where it should be: tests/lint/rules.

A page has an objective in each `obj` block. Those under `## fires` are followed by the findings;
`make golden` writes them, and its diff is the review.
"""

from __future__ import annotations

import re

import pytest

from helpers.rule_pages import BLOCK, PAGES, cases, findings_of
from objdsl import driver
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Certainty, Diagnostic, Severity
from objdsl.lint.fixes import fixed
from objdsl.lint.rule import Rule
from objdsl.lint.run import registry
from objdsl.render.terminal import render
from objdsl.source import Source

RULES = pytest.mark.parametrize("rule", registry(), ids=lambda rule: rule.name)


def rendered(diagnostics: list[Diagnostic]) -> str:
    return "\n\n".join(render(diagnostic) for diagnostic in diagnostics) + "\n"


@RULES
def test_a_page_holds(rule: Rule, request: pytest.FixtureRequest) -> None:
    path = PAGES / f"{rule.name}.md"
    page = path.read_text(encoding="utf-8")
    if request.config.getoption("--update-golden"):
        page = _rewritten(rule, page)
        path.write_text(page, encoding="utf-8", newline="\n")
    expected = list(cases(page))
    assert {case.fires for case in expected} == {True, False}
    for case in expected:
        findings = findings_of(rule, case.obj)
        if case.fires:
            assert findings
            assert rendered(findings) == case.text
        else:
            assert not findings, rendered(findings)


def _rewritten(rule: Rule, page: str) -> str:
    fires, silent = page.split("## silent\n")

    def block(match: re.Match[str]) -> str:
        text = rendered(findings_of(rule, match["obj"]))
        return f"```obj\n{match['obj']}```\n\n```text\n{text}```\n"

    return BLOCK.sub(block, fires) + "## silent\n" + silent


@RULES
def test_a_fix_removes_its_finding(rule: Rule) -> None:
    page = (PAGES / f"{rule.name}.md").read_text(encoding="utf-8")
    for case in cases(page):
        fixable = [finding for finding in findings_of(rule, case.obj) if finding.fix is not None]
        if case.fires and fixable:
            source = Source("example.obj", case.obj)
            after, count = fixed(source, driver_findings(rule, source), unsafe=True)
            assert count == len(fixable)
            assert not findings_of(rule, after.text)


def driver_findings(rule: Rule, source: Source) -> list[Diagnostic]:
    return list(rule(Facts(driver.compile_source(source))))


@RULES
def test_a_page_can_be_read(rule: Rule) -> None:
    """One sentence, then what, why, an example; only proven findings are more than a note."""
    assert rule.summary
    assert len(rule.summary) <= 100
    for title in ("What.", "Why.", "Fine if", "Example."):
        assert f"**{title}" in rule.doc, title
    example = re.search(r"\*\*Example\.\*\*\n\n((    .*\n|\n)+)", rule.doc)
    assert example
    for case in cases((PAGES / f"{rule.name}.md").read_text(encoding="utf-8")):
        for finding in findings_of(rule, case.obj) if case.fires else ():
            assert finding.certainty is Certainty.PROVEN or finding.severity is Severity.NOTE


def test_names_and_codes_are_unique() -> None:
    rules = registry()
    assert len({rule.name for rule in rules}) == len({rule.code for rule in rules}) == len(rules)
    assert {path.stem for path in PAGES.glob("*.md")} == {rule.name for rule in rules}


def test_a_ratio_that_is_written_twice_is_mended_twice() -> None:
    rule = next(rule for rule in registry() if rule.name == "uncorrected-sampler")
    goal = "maximize mean[p,i] sum[t] min(pi / old * A, clip(pi / old, 0.8, 1.2) * A)\n"
    source = Source("twice.obj", f"objective twice\nA = reward - mean[i] reward\n{goal}")
    after, _ = fixed(source, driver_findings(rule, source), unsafe=True)
    assert after.text.endswith(goal.replace("old", "mu"))
