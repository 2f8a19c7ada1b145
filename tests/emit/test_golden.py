"""What the compiler prints, held by golden files: it must read as if a person had written it."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from objdsl import driver
from objdsl.emit import torch_source
from objdsl.ir.differentiate import weights_of
from objdsl.ir.layout import formula
from objdsl.objectives import gallery

CODE = ["grpo", "dapo", "gspo", "rloo", "ppo", "dpo", "clip_cov", "deepseek_v32"]


@pytest.mark.parametrize("name", CODE)
def test_padded_source(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"emit/{name}.py", driver.torch_source(driver.compile_source(gallery.find(name))))


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_packed_source(name: str, golden: Callable[[str, str], None]) -> None:
    source = driver.torch_source(driver.compile_source(gallery.find(name)), packed=True)
    golden(f"emit/{name}_packed.py", source)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "dpo", "cispo", "deepseek_v32"])
@pytest.mark.parametrize("kind", ["txt", "tex"])
def test_formulas(name: str, kind: str, golden: Callable[[str, str], None]) -> None:
    objective = driver.compile_source(gallery.find(name))
    shown = [
        formula(objective.goal, weights, objective.bindings, as_latex=kind == "tex")
        for weights in ({}, weights_of(objective))
    ]
    golden(f"formulas/{name}.{kind}", "\n".join(shown))


@pytest.mark.parametrize("name", gallery.names())
def test_every_objective_is_emitted_in_lines_that_fit(name: str) -> None:
    objective = driver.compile_source(gallery.find(name))
    for packed in (False, True):
        source = driver.torch_source(objective, packed=packed)
        compile(source, name, "exec")
        assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize("name", gallery.names())
def test_where_lines_are_cut_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = driver.compile_source(gallery.find(name))

    def parsed() -> list[str]:
        _title, *body = ast.parse(driver.torch_source(objective)).body
        return [ast.dump(statement) for statement in body]

    cut = parsed()
    monkeypatch.setattr(torch_source, "WIDTH", 10_000)
    assert parsed() == cut
