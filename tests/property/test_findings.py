"""Random objectives are checked: nothing crashes, places exist, comments suppress, fixes remove."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.random_objectives import objectives
from objdsl import driver
from objdsl.diagnostic import Certainty, Diagnostic, Severity
from objdsl.driver import Checked
from objdsl.render import formats
from objdsl.render.schema import Report
from objdsl.render.terminal import render
from objdsl.source import Source, Span
from objdsl.syntax.parse import parse

SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck)
)
OBJECTIVES = st.integers(1, 3).flatmap(lambda depth: objectives(depth=depth))


def check(text: str) -> Checked:
    checked = driver.check(Source("random.obj", text))
    assert checked.objective is not None
    return checked


@SETTINGS
@given(OBJECTIVES)
def test_findings_are_shown_and_are_the_same_again(text: str) -> None:
    findings = check(text).findings
    assert findings == check(text).findings
    for finding in findings:
        assert finding.certainty is Certainty.PROVEN or finding.severity is Severity.NOTE
        assert finding.span is not None
        for span in (finding.span, *(label.span for label in finding.labels)):
            assert span.text.strip()
        title = f"{finding.severity}[{finding.code} {finding.name}]: {finding.message}"
        assert title in render(finding)
    Report.model_validate_json(formats.as_json(findings), strict=True)


@SETTINGS
@given(OBJECTIVES)
def test_every_finding_can_be_accepted_where_it_is(text: str) -> None:
    before = check(text).findings
    for finding in Random(text).sample(before, min(2, len(before))):
        after = check(_with_comment(text, finding))
        taken = [(other.name, other.message) for other in after.suppressed]
        assert (finding.name, finding.message) in taken
        left = [other.name for other in after.findings]
        assert sorted(left + [name for name, _ in taken]) == sorted(o.name for o in before)


def _with_comment(text: str, finding: Diagnostic) -> str:
    """The text with a comment at the end of the statement that a finding is in."""
    comment = f"# objdsl: ignore[{finding.name}] random"
    place = finding.span
    if place is None or place.source.text != text:
        return f"{comment}\n{text}"
    end = _statement(text, place).end
    return f"{text[:end]}  {comment}{text[end:]}"


def _statement(text: str, place: Span) -> Span:
    statements = parse(Source("random.obj", text)).statements
    return next(s.span for s in statements if s.span.start <= place.start < s.span.end)


@SETTINGS
@given(OBJECTIVES)
def test_fixes_leave_objectives(text: str) -> None:
    before = check(text)
    after, count = driver.mend(before, driver.check, unsafe=True)
    assert after.objective is not None
    assert (count > 0) == (after.source.text != text)
    edits = [edit for x in before.findings if x.fix for edit in x.fix.edits]
    assert count or all(edit.span.source.text != text for edit in edits)
