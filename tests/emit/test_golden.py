"""What the compiler prints, in golden files: it must read as if a person had written it."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable

import pytest

from helpers.samples import entries
from objdsl import driver
from objdsl.emit import torch_source
from objdsl.emit.helpers import torch_helpers, triton_helpers
from objdsl.emit.triton_writer import NotElementwiseError
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


@pytest.mark.parametrize("name", entries())
def test_every_objective_is_emitted_in_lines_that_fit(name: str) -> None:
    objective = driver.compile_source(gallery.find(name))
    for packed in (False, True):
        source = driver.torch_source(objective, packed=packed)
        compile(source, name, "exec")
        assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize("name", entries())
def test_no_name_needs_a_number(name: str) -> None:
    objective = driver.compile_source(gallery.find(name))
    sources = [driver.torch_source(objective, packed=packed) for packed in (False, True)]
    with contextlib.suppress(NotElementwiseError):
        sources.append(driver.triton_kernel(objective).source)
    numbered = re.compile(r"\b[A-Za-z]\w*_\d+\b|\bx\b")
    assert not [
        line
        for source in sources
        for line in _written(source)
        if numbered.search(re.sub(r'"[^"]*"', "", line))
    ]


def _written(source: str) -> list[str]:
    """The lines that the emitter wrote, without the helper functions."""
    helpers = {*torch_helpers(), *triton_helpers()}
    return [
        line
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name not in helpers
        for line in ast.unparse(node).splitlines()
    ]


@pytest.mark.parametrize("name", entries())
def test_where_lines_are_cut_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = driver.compile_source(gallery.find(name))

    def parsed() -> list[str]:
        _title, *body = ast.parse(driver.torch_source(objective)).body
        return [ast.dump(statement) for statement in body]

    cut = parsed()
    monkeypatch.setattr(torch_source, "WIDTH", 10_000)
    assert parsed() == cut
