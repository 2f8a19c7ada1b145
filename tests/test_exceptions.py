"""`except ObjdslError` catches everything that objdsl raises on purpose."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def bases() -> list[tuple[str, tuple[str, ...]]]:
    """Every class of the package, with the names of its bases; from the source, as half of it needs
    torch."""
    return [
        (node.name, tuple(ast.unparse(base).rsplit(".", 1)[-1] for base in node.bases))
        for folder in ("objdsl", "runtime")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]


def is_built_in(name: str) -> bool:
    value = getattr(builtins, name, None)
    return isinstance(value, type) and issubclass(value, BaseException)


def derived(roots: set[str], classes: list[tuple[str, tuple[str, ...]]]) -> set[str]:
    """The classes that derive from any of the roots."""
    while more := {name for name, above in classes if roots & {*above}} - roots:
        roots |= more
    return roots & {name for name, _ in classes}


def test_every_exception_is_an_objdsl_error_with_a_name_of_its_own() -> None:
    classes = bases()
    outside = {name for _, above in classes for name in above if name.endswith("Exception")}
    exceptions = derived(outside | {*filter(is_built_in, vars(builtins))}, classes)
    assert {"ObjectiveError", "WriteError", "EngineDiedError"} <= exceptions
    assert exceptions == derived({"ObjdslError"}, classes)
    assert {name for name in exceptions if not name.endswith("Error")} == set()
    times = Counter(name for name, _ in classes)
    assert {name for name in exceptions if times[name] > 1} == set()
