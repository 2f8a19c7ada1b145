"""Names are nouns: a pronoun or a participle does not say what a variable holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("objdsl", "runtime", "tests", "benchmarks", "grammars")
WORDS = {"one", "found", "said", "says", "told", "made", "own"}


def bound(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that is bound, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Store()) | ast.Attribute(_, name, ast.Store()) | ast.arg(name):
                yield node.lineno, name
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                yield node.lineno, name
            case ast.MatchAs(_, str(name)) | ast.MatchStar(str(name)):
                yield node.lineno, name
            case ast.ExceptHandler(_, str(name)) | ast.alias(_, str(name)):
                yield node.lineno, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_nouns(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    places = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in bound(ast.parse(path.read_text(encoding="utf-8")))
        if name in WORDS
    ]
    assert not places, "\n".join(places)


@pytest.mark.parametrize(
    "text",
    [
        "one = 1",
        "for _, one in pairs: pass",
        "[one for one in range(2)]",
        "(one := 1)",
        "x.one = 1",
        "def one(): pass",
        "def f(*, one): pass",
        "lambda one: 1",
        "class one: pass",
        "import x as one",
        "try: pass\nexcept ValueError as one: pass",
        "match x:\n    case [*one]: pass",
        "match x:\n    case f(one): pass",
    ],
)
def test_every_binding_is_seen(text: str) -> None:
    assert "one" in {name for _, name in bound(ast.parse(text))}
