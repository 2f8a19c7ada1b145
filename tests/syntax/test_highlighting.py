"""The grammar for editors knows the keywords of the language, and no others."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from objdsl.ir.columns import CLOCK
from objdsl.ir.declarations import BUILT_IN_POLICIES
from objdsl.syntax.language import COLUMNS

GRAMMARS = files("objdsl.grammars")


def patterns() -> dict[str, str]:
    text = (GRAMMARS / "objective.tmLanguage.json").read_text(encoding="utf-8")
    return {pattern["name"]: pattern.get("match", "") for pattern in json.loads(text)["patterns"]}


def words(scope: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]{2,}|\bV\b", patterns()[scope].replace("\\b", " ")))


def test_keywords_are_those_of_the_parser() -> None:
    lark = (GRAMMARS / "objective.lark").read_text(encoding="utf-8")
    rules = lark.partition("// --- words")[0]
    rules = "\n".join(line.partition("//")[0] for line in rules.splitlines())
    keywords = set(re.findall(r'"([a-z]+)"', rules)) - {"inf"}
    assert keywords == (
        words("keyword.control.statement.objdsl")
        | words("keyword.other.objdsl")
        | words("keyword.operator.word.objdsl")
        | words("keyword.control.state.objdsl")
    )


def test_policies_and_data_are_those_of_the_language() -> None:
    assert words("variable.language.policy.objdsl") == set(BUILT_IN_POLICIES)
    assert words("variable.language.data.objdsl") == set(COLUMNS)
    assert words("variable.language.clock.objdsl") == set(CLOCK)
