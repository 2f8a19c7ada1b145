"""The tree of a formula: its factors, and the symbols beside, above and below each."""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token, Tree

from objdsl.tex.names import Parts
from objdsl.tex.parse import Node, leaves

Factor = tuple[str, Tree[Token]]
"""A factor of a product, with `/` for a divisor."""


def factors_of(node: Tree[Token]) -> list[Factor]:
    """The factors of a product, each with the sign before it."""
    items: list[Factor] = []
    while True:
        *front, last = node.children
        assert isinstance(last, Tree)
        sign = front[1] if len(front) == 2 else None
        items.append(("/" if isinstance(sign, Token) and sign.type == "SLASH" else "", last))
        if not front:
            return items[::-1]
        assert isinstance(front[0], Tree)
        node = front[0]


def all_factors(node: Node) -> list[Tree[Token]]:
    """The factors anywhere in a formula."""
    if isinstance(node, Token):
        return []
    factors = [node] if node.data == "factor" else []
    return factors + [factor for child in node.children for factor in all_factors(child)]


def is_script(node: Node, kind: str) -> bool:
    """Whether a node is a subscript, `SUB`, or a superscript, `SUP`."""
    if not isinstance(node, Tree) or node.data != "script":
        return False
    first = node.children[0]
    return isinstance(first, Token) and first.type == kind


def script(factor: Tree[Token], kind: str) -> list[Token]:
    """The tokens of a subscript or a superscript, without the braces around them."""
    for child in factor.children:
        if is_script(child, kind):
            assert isinstance(child, Tree)
            tokens = leaves(child)[1:]
            if tokens and tokens[0].type == "OPEN":
                tokens = tokens[1:-1]
            return tokens
    return []


def first_script(tokens: Sequence[Token], kind: str) -> list[Token]:
    """The subscript or superscript of the first symbol of some tokens that has one."""
    for k, token in enumerate(tokens):
        if token.type == kind:
            if tokens[k + 1].type != "OPEN":
                return [tokens[k + 1]]
            depth = 0
            for end in range(k + 1, len(tokens)):
                depth += (tokens[end].type == "OPEN") - (tokens[end].type == "CLOSE")
                if depth == 0:
                    return list(tokens[k + 2 : end])
    return []


def group_at(items: Sequence[Factor], at: int) -> Tree[Token] | None:
    """The brackets after a symbol."""
    if at >= len(items) or items[at][0]:
        return None
    base = items[at][1].children[0]
    return base if isinstance(base, Tree) and base.data == "group" else None


def items_of(group: Tree[Token]) -> list[Node | None]:
    """The items between the commas of brackets; None if one is empty."""
    inside = group.children[1]
    assert isinstance(inside, Tree)
    items: list[Node | None] = []
    for child in inside.children:
        if isinstance(child, Tree) and child.data == "item":
            items.append(child.children[0] if child.children else None)
    return items


def set_element(node: Node) -> Node | None:
    """The expression for each element of `\\{R_i\\}_{i=1}^G` and `\\{R_1, ..., R_G\\}`."""
    factors = all_factors(node)
    if not factors:
        return None
    base = factors[0].children[0]
    if isinstance(base, Tree) and base.data == "group" and str(leaves(base)[0]) in ("{", "lbrace"):
        return items_of(base)[0]
    return None


def says_what_is_sampled(factor: Tree[Token]) -> bool:
    """Whether brackets say what is sampled, as they may behind an expectation."""
    depth = 0
    for token in leaves(factor):
        if token.type == "RELATION" and str(token) == "sim" and depth <= 2:
            return True
        depth += (token.type in ("OPEN", "LSQ", "LPAR")) - (token.type in ("CLOSE", "RSQ", "RPAR"))
    return False


def is_token(factor: Tree[Token], kind: str) -> bool:
    """Whether a factor is a token of a kind: `BIG`, the sign of a sum or a product, or `EVAL`."""
    base = factor.children[0]
    return isinstance(base, Token) and base.type == kind


def product_in_brackets(base: Node) -> tuple[Tree[Token], list[Factor]] | None:
    """`(\\prod_{u=t}^{s-1} g)`, as its sign and its factors."""
    if not isinstance(base, Tree) or base.data != "group":
        return None
    inner = items_of(base)[0]
    if not isinstance(inner, Tree) or inner.data != "product":
        return None
    items = factors_of(inner)
    if not is_token(items[0][1], "BIG") or str(items[0][1].children[0]) != "prod":
        return None
    return items[0][1], items[1:]


def is_argument(group: Tree[Token] | None) -> bool:
    """Whether brackets after a name are its argument, `(\\theta)`, and not a factor."""
    if group is None:
        return False
    inside = [t for t in leaves(group)[1:-1] if t.type not in ("COMMA", "MID", "LPAR", "RPAR")]
    plain = all(
        t.type in ("GREEK", "LETTER", "SUB", "SUP", "OPEN", "CLOSE", "WORD", "NUMBER")
        or (t.type in ("PLUS", "MINUS") and k and inside[k - 1].type == "LETTER")
        for k, t in enumerate(inside)
    )
    arguments = {"theta", "phi", "x", "y", "q", "o", "pi", "s", "a", "psi", "J", "omega"}
    first = next((str(t) for t in inside if t.type in ("LETTER", "GREEK", "CALLIGRAPHIC")), "")
    return plain and first in arguments


def side_of(parts: Parts, sup: Sequence[str]) -> str:
    """The response of a pair that scripts denote: `chosen`, `rejected`, or neither."""
    marks = {*parts.words, *parts.indices, *(sup if len(sup) == 1 else ())}
    if marks & {"w", "chosen", "c", "plus", "+", "win"} and "t" not in marks:
        return "chosen"
    if marks & {"l", "rejected", "minus", "-", "lose"} and "t" not in marks:
        return "rejected"
    return ""
