from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result

from objdsl.lint.run import registry

Run = Callable[..., Result]


def test_a_rule_by_name_and_by_code(run: Run) -> None:
    page = run("rule", "length-normalisation").output
    assert page.startswith("# length-normalisation\n\nOBJ101, warning.")
    assert "**Why.**" in page
    assert run("rule", "OBJ101").output == page


def test_all_rules_are_listed(run: Run) -> None:
    lines = run("rule").output.splitlines()
    assert [line.split()[0] for line in lines] == [rule.code for rule in registry()]
    found = json.loads(run("rule", "--all", "--output-format", "json").output)
    assert [one["name"] for one in found] == [rule.name for rule in registry()]
    assert run("rule", "--all").output.count("**Why.**") == len(registry())


def test_a_rule_that_is_none(run: Run) -> None:
    result = run("rule", "lenght-normalisation")
    assert result.exit_code == 2
    assert "did you mean `length-normalisation`?" in result.output
