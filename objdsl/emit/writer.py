"""Writes formulas as statements, one for each value that is named or used twice."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from objdsl.emit.identifiers import Identifiers
from objdsl.emit.lower import operands
from objdsl.emit.stages import Input, Kind, Scope
from objdsl.ir.build import ONE
from objdsl.ir.columns import Reading, column_of
from objdsl.ir.indices import Indices, decimal
from objdsl.ir.nodes import Binary, Expr, Reduce, Unary
from objdsl.ir.objective import Objective
from objdsl.ir.ops import BINARY

WIDTH = 100
ATOM, POWER, SIGN, TIMES, PLUS, AND, OR, COMPARE = 100, 80, 75, 70, 60, 40, 30, 20
PRECEDENCE = {
    "+": PLUS, "-": PLUS, "*": TIMES, "/": TIMES, "**": POWER, "&": AND, "|": OR,
    "<": COMPARE, "<=": COMPARE, ">": COMPARE, ">=": COMPARE, "==": COMPARE, "!=": COMPARE,
}  # fmt: skip
"""The precedence of Python's operators."""


class Writer(ABC):
    """The body of one function. Subclasses know the syntax of a language.

    Args:
        scope: what it shares with the other functions of the program.
        stored: values that the function is given.
        identifiers: of the inputs, and free ones.
    """

    def __init__(self, scope: Scope, stored: Iterable[Expr], identifiers: Identifiers) -> None:
        self.scope = scope
        self.stored = set(stored)
        self.identifiers = identifiers.copy()
        self.lines: list[str] = []
        self.inputs: dict[str, Input] = {}
        self.text: dict[Expr, tuple[str, int]] = {}
        self.uses: dict[Expr, int] = {}

    @abstractmethod
    def _expression(self, node: Expr) -> tuple[str, int]:
        """The text of a value in terms of its operands, and how tightly that binds."""

    @abstractmethod
    def _lift(self, have: Indices, want: Indices) -> str:
        """The text that makes a value broadcast against one with more indices."""

    def _count(self, roots: Iterable[Expr]) -> None:
        for root in roots:
            self.uses[root] = self.uses.get(root, 0) + 1
        for node in self._inside(roots):
            for child in self._operands(node):
                self.uses[child] = self.uses.get(child, 0) + 1

    def _inside(self, roots: Iterable[Expr]) -> list[Expr]:
        inside: dict[Expr, None] = {}
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node in inside or node in self.stored:
                continue
            inside[node] = None
            stack.extend(self._operands(node))
        return list(inside)

    def _operands(self, node: Expr) -> tuple[Expr, ...]:
        """The values in terms of which a value is written."""
        return operands(node)

    def _input(self, kind: Kind, key: str, indices: Indices) -> str:
        """The identifier of an input, which the function takes from now on."""
        name = self.identifiers.of(kind, key)
        self.inputs.setdefault(name, Input(name, indices, kind, key))
        return name

    def _environment(self, key: str, indices: Indices) -> str:
        return self._input("environment", key, indices)

    def _column(self, node: Reading, indices: Indices) -> str:
        return self._input("column", column_of(node).name, indices)

    def _write(self, root: Expr) -> None:
        """Writes the statements that `root` needs; afterwards its text is known."""
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node in self.text:
                continue
            if node in self.stored:
                name = self._input("stored", self.scope.given[node], self._indices(node))
                self.text[node] = (name, ATOM)
                continue
            if not ready:
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(self._operands(node)))
                continue
            text, precedence = self._expression(node)
            if self._deserves_a_name(node, text):
                name = self._name_for(node)
                self.lines.append(f"{name} = {text}")
                text, precedence = name, ATOM
            self.text[node] = (text, precedence)

    def _deserves_a_name(self, node: Expr, text: str) -> bool:
        if self._is_leaf(node) or self.scope.stage(node) == "constant":
            return False
        if isinstance(node, Reduce) and node.over == ("i",):
            return True
        if node in self.scope.names or len(text) > 60:
            return True
        if isinstance(node, Unary) and node.op == "not" and node.current:
            return True  # where the gradient passes: a reader looks for it
        cheap = isinstance(node, Unary) and node.op == "neg"
        return self.uses.get(node, 0) > 1 and not cheap

    def _name_for(self, node: Expr) -> str:
        if node in self.scope.given:
            return self.scope.given[node]
        return self.identifiers.fresh(*self.scope.wishes(node))

    def _is_leaf(self, node: Expr) -> bool:
        is_count = isinstance(node, Reduce) and node.x == ONE
        return is_count or not node.children

    def _indices(self, node: Expr) -> Indices:
        """The indices that a value has here."""
        return node.indices

    def _at(self, node: Expr, indices: Indices, precedence: int = 0) -> str:
        """The text of a value, brought to `indices`, in brackets if it binds too loosely."""
        self._write(node)
        text, binding = self.text[node]
        have = self._indices(node)
        lifted = self._lift(have, indices)
        if lifted:
            text = (f"({text})" if binding < ATOM else text) + lifted
            binding = ATOM
        return f"({text})" if binding < precedence else text

    def _infix(self, node: Binary) -> tuple[str, int]:
        """A value with its sign between its operands."""
        sign = BINARY[node.op].code
        precedence = PRECEDENCE[sign]
        compares = precedence == COMPARE
        left = self._at(node.a, node.indices, precedence + compares)
        right = self._at(node.b, node.indices, precedence + (node.op in ("sub", "div") or compares))
        return f"{left} {sign} {right}", precedence


def applied(template: str, operand: Callable[[int], str]) -> tuple[str, int]:
    """A function of one value, and how tightly its text binds.

    Args:
        template: the function with a place for its operand: `-{}`, `{}.exp()`, `f({})`, `-f(-{})`.
        operand: the text of an operand, in brackets where the given level binds tighter.
    """
    before = template[: template.index("{")][-1:]
    level = {"(": 0, "-": SIGN, "~": SIGN + 1}.get(before, ATOM)
    return template.format(operand(level)), SIGN if template[0] in "-~" else ATOM


def without_unused(lines: list[str]) -> list[str]:
    """Leaves out assignments that nothing reads: a joint sum is written without its parts."""
    kept: list[str] = []
    read: set[str] = set()
    for line in reversed(lines):
        name, equals, _ = line.partition(" = ")
        if not equals or not name.isidentifier() or name in read:
            kept.append(line)
            read.update(re.findall(r"\w+", line))
    return kept[::-1]


def number(value: float) -> tuple[str, int]:
    if value != value or value in (float("inf"), float("-inf")):
        return f"{'-' if value < 0 else ''}math.inf" if value == value else "math.nan", ATOM
    return decimal(value), ATOM if value >= 0 else SIGN


def title(ir: Objective) -> str:
    """The docstring of an emitted module: the objective, and the first line of its file's opening
    comment, which names the paper."""
    first = ir.source.text.lstrip().split("\n", 1)[0] if ir.source else ""
    paper = first.lstrip("# ").rstrip() if first.startswith("#") else ""
    joint = ":\n" if len(ir.name) + len(paper) > WIDTH - 8 else ": "
    return docstring(f"{ir.name}{joint}{paper}" if paper else ir.name)


def string(text: str) -> str:
    """A text as a Python string on one line, whatever it holds."""
    return json.dumps(text)


def docstring(text: str) -> str:
    """A text as a Python string between triple quotes, whatever it holds: what could end it, or is
    not printable, is escaped."""

    def written(char: str) -> str:
        if char in '\\"':
            return f"\\{char}"
        is_plain = char == "\n" or char.isprintable()
        return char if is_plain else char.encode("unicode_escape").decode("ascii")

    return f'"""{"".join(map(written, text))}"""'
