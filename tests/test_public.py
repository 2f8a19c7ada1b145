"""Tests use what is public, and import each other by pytest's settings alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
FILES = [path for path in sorted(TESTS.rglob("*.py")) if TESTS / "golden" not in path.parents]
# Private attributes of TRL's and verl's trainers, which ours extend or change.
THEIRS = {
    "_buffered_inputs", "_compute_loss", "_generate", "_generate_and_score_completions", "_metrics",
    "_prepare_inputs", "_step", "_update_actor",
}  # fmt: skip
OURS = {"helpers", "objdsl", "proofs", *(path.stem for path in ROOT.glob("benchmarks/*.py"))}


def private_names(tree: ast.Module) -> Iterator[str]:
    """Private names that are imported from our modules, or read as their attributes."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(str(module), aliases) if module.partition(".")[0] in OURS:
                imported |= {x.asname or x.name: f"{module}.{x.name}" for x in aliases}
            case ast.Import(aliases):
                ours = [x for x in aliases if x.name.partition(".")[0] in OURS]
                imported |= {x.asname or x.name: x.name for x in ours}
    yield from (name for name in imported.values() if any(map(is_private, name.split("."))))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value, name) if is_private(name) and ast.unparse(value) in imported:
                yield f"{imported[ast.unparse(value)]}.{name}"


@cache
def private_attributes() -> set[str]:
    """The private attributes and methods of the classes of the product."""
    names = set()
    for path in (*ROOT.glob("objdsl/**/*.py"), *ROOT.glob("runtime/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(_, name, ast.Store()):
                    names.add(name)
                case ast.ClassDef(_, _, _, body):
                    names |= {x.name for x in body if isinstance(x, ast.FunctionDef)}
                    names |= {ast.unparse(x.target) for x in body if isinstance(x, ast.AnnAssign)}
    return {name for name in names if is_private(name)} - THEIRS


def attributes_of_others(tree: ast.Module) -> Iterator[str]:
    """The attributes that are read or set, except a class's own."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("self" | "cls"), _):
                pass
            case ast.Attribute(_, name):
                yield name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def changes_the_path(tree: ast.Module) -> bool:
    names = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return bool(names & {"sys.path.append", "sys.path.extend", "sys.path.insert"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_ask_for_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [*private_names(tree)] == []
    assert private_attributes().isdisjoint(attributes_of_others(tree))
    assert not changes_the_path(tree)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from objdsl.plan import _most, plan", ["objdsl.plan._most"]),
        ("from objdsl import Objective\nObjective._alive(x)", ["objdsl.Objective._alive"]),
        ("from objdsl import plan\nplan._most", ["objdsl.plan._most"]),
        ("import objdsl.plan as p\np._most + p.plan", ["objdsl.plan._most"]),
        ("import objdsl.plan\nobjdsl.plan._most", ["objdsl.plan._most"]),
        ("from objdsl._plan import plan", ["objdsl._plan.plan"]),
        ("from torch import _C\nimport torch\ntorch._C", []),
        ("from objdsl import __version__", []),
    ],
)
def test_what_is_private(text: str, names: list[str]) -> None:
    assert [*private_names(ast.parse(text))] == names


def test_private_attributes_are_known() -> None:
    text = "trainer._windows[0].step\nself._window\ntrainer._buffered_inputs\nobjective._programs"
    private = private_attributes() & {*attributes_of_others(ast.parse(text))}
    assert private == {"_windows", "_programs"}


def test_what_changes_the_path() -> None:
    assert changes_the_path(ast.parse("import sys\nsys.path.insert(0, 'tests')"))
    assert not changes_the_path(ast.parse("import sys\nprint(sys.path)"))
