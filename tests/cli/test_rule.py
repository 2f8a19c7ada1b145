"""`objdsl rule`: the page of a rule."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from click.testing import Result

from objdsl.lint.run import pages

Run = Callable[..., Result]


def test_a_rule_by_name_and_by_code(run: Run) -> None:
    page = run("rule", "length-normalisation").output
    assert page.startswith("# length-normalisation\n\nOBJ101, warning.")
    assert "**Why.**" in page
    assert run("rule", "OBJ101").output == page


def test_all_rules_are_listed(run: Run) -> None:
    lines = run("rule").output.splitlines()
    assert [line.split()[0] for line in lines] == [page.code for page in pages()]
    rules = json.loads(run("rule", "--all", "--format", "json").output)
    assert [rule["name"] for rule in rules] == [page.name for page in pages()]
    assert re.findall("^# (.*)", run("rule", "--all").output, re.M) == [p.name for p in pages()]
    assert run("rule", "own-mean", "--all").exit_code == 2


def test_what_may_be_wrong_with_a_text_has_pages_too(run: Run) -> None:
    page = run("rule", "OBJ902").output
    assert page.startswith("# unused-suppression\n\nOBJ902, warning.")
    assert run("rule", "wrong-index").output.startswith("# wrong-index\n\nOBJ911, error.")


def test_a_terminal_gets_markdown_laid_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    page = run("rule", "own-mean").output
    assert "\x1b[" in page
    assert "**Why.**" not in page


def test_a_rule_that_is_none(run: Run) -> None:
    result = run("rule", "lenght-normalisation")
    assert result.exit_code == 2
    assert "did you mean `length-normalisation`?" in result.output
