"""Formulas survive the way through JSON; broken JSON is refused."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from objdsl import driver, gallery
from objdsl.differentiate import weights_of
from objdsl.ir import json as ir_json


@pytest.mark.parametrize("name", gallery.names())
def test_round_trip(name: str) -> None:
    formula = driver.compile_source(gallery.find(name))
    roots = {"J": formula.goal, **{str(k): w for k, w in enumerate(weights_of(formula).values())}}
    assert ir_json.loads(ir_json.dumps(roots)) == roots


def graph() -> dict[str, object]:
    formula = driver.compile_source(gallery.find("reinforce"))
    return json.loads(ir_json.dumps({"J": formula.goal}))  # type: ignore[no-any-return]


def test_unknown_fields_are_refused() -> None:
    broken = graph()
    broken["nodes"][0]["surprise"] = 1  # type: ignore[index]
    with pytest.raises(ValidationError, match="surprise"):
        ir_json.loads(json.dumps(broken))


def test_unknown_operators_are_refused() -> None:
    text = json.dumps(graph()).replace('"op": "mul"', '"op": "exec"')
    with pytest.raises(ValidationError):
        ir_json.loads(text)


def test_an_operand_must_come_first() -> None:
    text = ir_json.dumps({"J": driver.compile_source(gallery.find("grpo")).goal})
    broken = json.loads(text)
    broken["nodes"] = broken["nodes"][::-1]
    with pytest.raises(ValueError, match="not before it"):
        ir_json.loads(json.dumps(broken))


def test_a_root_must_exist() -> None:
    broken = graph()
    broken["roots"] = {"J": 10_000}
    with pytest.raises(ValueError, match="does not exist"):
        ir_json.loads(json.dumps(broken))


def test_a_name_is_an_identifier() -> None:
    for name in ("x; import os", 'x"""', "a b", "", "x\n", "\N{GREEK SMALL LETTER PI}"):
        text = json.dumps({"nodes": [{"node": "Param", "name": name}], "roots": {"x": 0}})
        with pytest.raises(ValidationError, match="should match pattern"):
            ir_json.loads(text)
