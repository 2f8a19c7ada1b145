"""The state of reading equations: definitions, letters, and guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lark import Token, Tree

from objdsl.source import Source
from objdsl.tex.factors import Factor, items_of, script
from objdsl.tex.lexer import unreadable
from objdsl.tex.names import INDICES, SIZES, Parts
from objdsl.tex.parse import Equation, Node, leaves, span_of, tree_of
from objdsl.tex.pieces import Piece, raised


@dataclass
class Reading:
    """What is known while equations are read.

    Attributes:
        node: reads a node of a tree.
        factors: reads the factors of a product.
        definitions: the equations by the names that they define.
        lets: the texts of names, each after what it uses, with what was guessed of them.
        params, givens, policies: what the formula reads, and no equation defines.
        declared: names that comments of the text declare, with how many indices each carries.
        masks: the columns among them.
        sizes: letters for how many elements there are along some indices.
        response, token: the letters of the current response and token.
        position: what the position of the token is called.
        bound: the indices that are reduced around here.
        open: the names whose equations are being read, outermost first.
        kept: whether a comment says which prompts are kept.
        guesses: what was guessed of the formula itself.
    """

    source: Source
    node: Callable[[Reading, Node], Piece]
    factors: Callable[[Reading, Sequence[Factor]], Piece]
    definitions: dict[str, Equation] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()
    kept: bool = False
    sizes: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(SIZES))
    lets: dict[str, tuple[Piece, str]] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    givens: dict[str, str] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    response: str = ""
    token: str = ""
    position: str = "t"
    bound: tuple[str, ...] = ()
    guesses: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    # --- values ----------------------------------------------------------------------------------

    def read(self, node: Node) -> Piece:
        """The value of a node of a tree."""
        return self.node(self, node)

    def product(self, items: Sequence[Factor]) -> Piece:
        """The value of a product."""
        return self.factors(self, items)

    def value(self, tokens: Sequence[Token]) -> Piece:
        """The value of a formula.

        Raises:
            ObjectiveError: it is not read.
        """
        return self.read(tree_of(self.source, tokens))

    def single(self, group: Tree[Token]) -> Piece:
        """The only value in brackets."""
        parts = items_of(group)
        if len(parts) != 1 or parts[0] is None:
            raise self.fail("one value is read here", group)
        return self.read(parts[0])

    def power(self, x: Piece, factor: Tree[Token]) -> Piece:
        """A value with the exponent of its factor, if it has one."""
        sup = script(factor, "SUP")
        return raised(x, self.value(sup)) if sup else x

    # --- letters ---------------------------------------------------------------------------------

    def index_of(self, letter: str) -> str:
        """The index of the language that a letter runs along here; empty for other letters."""
        if letter == self.response:
            return "i"
        if letter == self.token or letter.rstrip("'") == "t":
            return "t"
        return INDICES.get(letter.rstrip("'"), "")

    def check(self, parts: Parts, at: Sequence[Token]) -> None:
        """Checks that a formula is about the current response and token."""
        for letter in parts.indices:
            kind = self.index_of(letter)
            spoken = self.response if kind == "i" else self.token if kind == "t" else letter
            if letter in "wl" and len(parts.indices) == 1:
                continue  # of a pair
            if self.response == "*" and kind == "i":
                continue
            running = f"{letter}+{parts.running}" if parts.running else letter
            if spoken and spoken not in (letter, running):
                what = "response" if kind == "i" else "token"
                raise self.fail(
                    f"`{letter}` is a different {what} than the `{spoken}` of the sum around it",
                    at, "inside a reduction only the value of its own element can be said",
                )  # fmt: skip

    # --- what the user is told -------------------------------------------------------------------

    def note_again(self, equation: Equation) -> None:
        if equation.again:
            self.guess("of two formulas for it the first is read, and the second not compared")

    def guess(self, text: str) -> None:
        if text not in self.guesses:
            self.guesses.append(text)

    def fail(self, message: str, at: Node | Sequence[Token], help: str = "") -> Exception:
        tokens = leaves(at) if isinstance(at, Tree | Token) else list(at)
        return unreadable(message, span_of(self.source, tokens), help)
