"""What the writers of formulas share: names, the order of writing, and the present element.

`objdsl.ir.text` and `objdsl.ir.latex` are the writers, `objdsl.ir.layout` shows whole objectives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.indices import Indices
from objdsl.ir.objective import Named
from objdsl.ir.ops import APPLY, ATOM

Construct = (
    n.Const | n.Length | n.Unary | n.Binary | n.Clip | n.Where | n.Stop
    | n.Reduce | n.Quantile | n.Peers | n.Present | n.Scan | n.Shift | n.Order | n.Pick | n.Symbol
)  # fmt: skip
"""The nodes that each syntax writes differently."""
Names = Mapping[n.Expr, str]
Piece = tuple[str, int]
"""A text, and its precedence."""

OPPOSITE: dict[n.BinaryOp, n.BinaryOp] = {
    "lt": "ge",
    "le": "gt",
    "gt": "le",
    "ge": "lt",
    "eq": "ne",
    "ne": "eq",
}


def names_of(named: Iterable[Named]) -> dict[n.Expr, str]:
    """The name that a file gives to each formula; leaves keep their own."""
    names: dict[n.Expr, str] = {}
    for binding in named:
        if binding.value.children:
            names.setdefault(binding.value, binding.name)
    return names


def used(names: Names, *roots: n.Expr) -> list[tuple[str, n.Expr]]:
    """The definitions that a reader of the roots needs, each before those that use it."""
    below = set(n.topological(*(child for root in roots for child in root.children)))
    return [
        (names[node], node) for node in n.topological(*roots) if node in names and node in below
    ]


def letters(names: Names, *roots: n.Expr) -> set[str]:
    """The names that are used for something in the file."""
    leaves = (node for node in n.topological(*roots) if isinstance(node, n.Param | n.Column))
    return {*names.values(), *(leaf.name for leaf in leaves)}


RESPONSES, TOKENS = "ijklmn", "tsuqh"
"""The letters of indices, from the outside inwards."""


@dataclass(frozen=True)
class Place:
    """The response and the token that a formula is written for."""

    response: str = "i"
    token: str = "t"

    @property
    def length(self) -> str:
        return f"|y_{self.response}|"

    def subscripts(self, indices: Indices) -> str:
        letters = {"i": self.response, "t": self.token, "v": "v"}
        return ",".join(letters[index] for index in indices if index != "p")


HERE = Place()
"""The response and the token of a weight."""


class _Pieces(dict[n.Expr, Piece]):
    """The text of each node, and its precedence; written on demand."""

    def __init__(self, write: Callable[[n.Expr], Piece]) -> None:
        self._write = write

    def __missing__(self, node: n.Expr) -> Piece:
        return self._write(node)


class Writer(ABC):
    """Writes formulas, each in terms of those that have names.

    Args:
        names: what stands for a formula, where it is part of another.
        roots: the formulas that are written, for the letters that stand for something in them.
        limit: characters; a formula that is larger ends in dots.

    Attributes:
        place: the response and the token of the formula.
        outside: those that the innermost sum over others leaves out.
        done: the pieces of this place that are already written.
    """

    def __init__(self, names: Names, roots: tuple[n.Expr, ...], limit: int = 10_000) -> None:
        self.names = names
        self.roots = roots
        self.limit = limit
        self.done = _Pieces(self._write)
        self.probabilities: dict[n.Expr, Piece | None] = {}
        self.place = self.outside = HERE
        self._pieces = {HERE: (self.done, self.probabilities)}

    def show(self, expr: n.Expr) -> str:
        """The text of a formula, written out even if it has a name."""
        for child in self._operands(expr):
            self._write(child)
        return self._cut(self._node(expr))[0]

    @contextmanager
    def _at_place(self, place: Place) -> Iterator[None]:
        """Writes for a different response or token."""
        before, self.place = self.place, place
        fresh: tuple[_Pieces, dict[n.Expr, Piece | None]] = (_Pieces(self._write), {})
        self.done, self.probabilities = self._pieces.setdefault(place, fresh)
        try:
            yield
        finally:
            self.place = before
            self.done, self.probabilities = self._pieces[before]

    def _beside(self) -> Place:
        """A different token of the same response."""
        return self._further(self.place)

    def _further(self, place: Place) -> Place:
        return replace(place, token=self._next(TOKENS, place.token))

    def _next(self, letters: str, letter: str) -> str:
        """The letter for an index that runs beside `letter`, and is not a name of the file."""
        free = [other for other in letters if other not in self.taken]
        after = [other for other in free if letters.index(other) > letters.find(letter)]
        return (after or [f"{letter}{letter}"])[0]

    def _operands(self, node: n.Expr) -> tuple[n.Expr, ...]:
        """The nodes that are written before a node: those for the same response and token."""
        if self._inside(node) == self.place:
            return node.children
        decay = node.decay if isinstance(node, n.Scan) else None
        return () if decay is None or "t" in decay.indices else (decay,)

    def _write(self, root: n.Expr) -> Piece:
        """Writes the text of a node, from the leaves up; named formulas are not entered."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node not in self.done:
                piece = self._named(node)
                if piece is None:
                    waiting = [child for child in self._operands(node) if child not in self.done]
                    if waiting:
                        stack += waiting[::-1]
                        continue
                    piece = self._cut(self._node(node))
                self.done[node] = piece
            stack.pop()
        return self.done[root]

    def _cut(self, piece: Piece) -> Piece:
        return piece if len(piece[0]) <= self.limit else ("...", ATOM)

    @cached_property
    def taken(self) -> set[str]:
        return letters(self.names, *self.roots)

    def _named(self, node: n.Expr) -> Piece | None:
        return (self._symbol(self.names[node], node.indices), ATOM) if node in self.names else None

    def at(self, node: n.Expr, level: int) -> str:
        """The text of a node, in brackets if its precedence is lower than required."""
        return self._held(self.done[node], level)

    def _held(self, piece: Piece, level: int) -> str:
        return self._bracketed(piece[0]) if piece[1] < level else piece[0]

    # --- what is written alike -------------------------------------------------------------------

    def _node(self, node: n.Expr) -> Piece:
        match node:
            case n.Param(name) | n.Column(name):
                return self._symbol(name, node.indices), ATOM
            case n.LogProb(policy):
                return self._log(self._token(policy))
            case n.LogDist(policy):
                return self._log(self._entry(policy))
            case n.Position():
                return self.place.token, ATOM
            case n.Unary("exp", x) if (product := self._probability(x)) is not None:
                return product
            case n.Unary("not", n.Binary(op, a, b)) if op in OPPOSITE:
                return self._infix(OPPOSITE[op], a, b)
            case n.Binary("sub", a, b) if (ratio := self._log_ratio(a, b)) is not None:
                return ratio
            case n.Reduce("sum", over, x, None) if x == ONE:
                return self._count(over)
        return self._construct(node)

    def _log_ratio(self, a: n.Expr, b: n.Expr) -> Piece | None:
        if not isinstance(a, n.LogProb | n.LogDist) or not isinstance(b, n.LogProb | n.LogDist):
            return None
        ratio = self._probability(n.Binary("sub", a, b))
        return self._log(ratio[0]) if ratio is not None else None

    def _probability(self, x: n.Expr) -> Piece | None:
        """`exp(x)` as a product of probabilities, if it is one."""
        return n.bottom_up(x, self.probabilities, self._within_limit)

    def _within_limit(self, x: n.Expr) -> Piece | None:
        product = self._product(x)
        return product if product is None or len(product[0]) <= self.limit else None

    def _product(self, x: n.Expr) -> Piece | None:
        """The product that a value is, given those of its operands; None if it is not one."""
        known = self.probabilities
        match x:
            case n.LogProb(policy):
                return self._token(policy), ATOM
            case n.LogDist(policy):
                return self._entry(policy), ATOM
            case n.Binary("sub", a, b) if (above := known[a]) and (below := known[b]):
                return self._quotient(above, below)
            case n.Binary("add", a, b) if (left := known[a]) and (right := known[b]):
                return self._times(left, right)
            case n.Reduce("sum", over, inner, None):
                with self._at_place(self._inside(x)):
                    body = self._probability(inner)
                return self._prod(over, body) if body else None
            case n.Binary("div", a, b) if body := known[a]:
                return self._root(body, b)
            case n.Binary("mul", a, b) if body := known[a]:
                return self._power(body, b)
        return None

    def _open(self, node: n.Expr) -> bool:
        """Whether the text of a factor ends in a reduction, which on paper would reach over what
        follows it."""
        while self._named(node) is None:
            match node:
                case n.Reduce() | n.Quantile() | n.Peers() | n.Scan() | n.Order():
                    return self.done[node][1] == APPLY
                case n.Binary("mul" | "div" | "pow", _, last) | n.Unary("neg", last):
                    node = last
                case n.Where(_, last, b) if b == ZERO and last != ONE:
                    node = last
                case _:
                    return False
        return False

    # --- what is not -----------------------------------------------------------------------------

    @abstractmethod
    def _inside(self, node: n.Expr) -> Place:
        """The response and the token that the operand of a node is written for."""

    @abstractmethod
    def _construct(self, node: Construct) -> Piece:
        """A node that each syntax writes differently."""

    @abstractmethod
    def _infix(self, op: n.BinaryOp, a: n.Expr, b: n.Expr) -> Piece:
        """A sign between its operands."""

    @abstractmethod
    def _bracketed(self, text: str) -> str: ...

    @abstractmethod
    def _symbol(self, name: str, indices: Indices) -> str: ...

    @abstractmethod
    def _log(self, text: str) -> Piece: ...

    @abstractmethod
    def _count(self, over: Indices) -> Piece:
        """The number of elements."""

    @abstractmethod
    def _token(self, policy: str) -> str:
        """The probability of the token."""

    @abstractmethod
    def _entry(self, policy: str) -> str:
        """The probability of an entry of the vocabulary."""

    @abstractmethod
    def _quotient(self, above: Piece, below: Piece) -> Piece: ...

    @abstractmethod
    def _times(self, left: Piece, right: Piece) -> Piece: ...

    @abstractmethod
    def _prod(self, over: Indices, body: Piece) -> Piece: ...

    @abstractmethod
    def _root(self, body: Piece, degree: n.Expr) -> Piece: ...

    @abstractmethod
    def _power(self, body: Piece, exponent: n.Expr) -> Piece: ...
