"""Tokens to trees: the equations of a text, each with the name that it defines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken

from objdsl.frozen import dataclass
from objdsl.source import Source, Span
from objdsl.tex.lexer import CLOSING, OPENING, Given, tokens_of, unreadable

Node = Tree[Token] | Token

_BLOCKS = re.compile(
    r"\$\$(?P<dollars>.*?)\$\$|\\\[(?P<bracket>.*?)\\\]"
    r"|\\begin\{(?P<name>equation|align|gather|multline|eqnarray|displaymath|flalign)(?P<star>\*?)\}"
    r"(?P<body>.*?)\\end\{(?P=name)(?P=star)\}",
    re.DOTALL,
)
_COMMENT = re.compile(r"(?<!\\)%.*")
_DECLARED = re.compile(r"^[ \t]*%[ \t]*objdsl:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_BINDING = frozenset({"COMMA", "NEWLINE", "SEMICOLON"})
_MOST_TOKENS = 20_000


@dataclass(frozen=True)
class Equation:
    """`left = right`; `left` is empty if nothing is defined.

    Attributes:
        again: whether a second formula follows, as in `left = right = other`.
        update: whether it says how a declared number changes: the next value of a state behind
            an arrow, or which goal a learned number approximately minimises.
    """

    left: tuple[Token, ...]
    right: tuple[Token, ...]
    source: Source
    again: bool = False
    update: bool = False

    @property
    def span(self) -> Span:
        return span_of(self.source, (*self.left, *self.right))


def declared_in(source: Source) -> list[str]:
    """The statements of the language that are in comments, `% objdsl: param eps = 0.2`."""
    return [line[1] for line in _DECLARED.finditer(source.text)]


def equations(source: Source) -> list[Equation]:
    """The equations of a LaTeX text: of its displayed mathematics, or of all of it.

    Raises:
        ObjectiveError: there are none, or one holds what is not read.
    """
    text = _COMMENT.sub(lambda comment: " " * len(comment[0]), source.text)
    clean = Source(source.name, text)
    blocks = [
        block.span(group)
        for block in _BLOCKS.finditer(text)
        for group in ("dollars", "bracket", "body")
        if block[group] is not None
    ] or [(0, len(text))]
    pairs = []
    for start, end in blocks:
        tokens = tokens_of(clean, start, end)
        if len(tokens) > _MOST_TOKENS:
            raise unreadable("this formula is too long", Span(source, start, end))
        for left, right in _split(tokens):
            if right:
                first, update = _first(right), left[-1:] and left[-1].type == "UPDATE"
                left = left[:-1] if update else left
                again = len(first) < len(right)
                pairs.append(Equation(tuple(left), tuple(first), source, again, bool(update)))
    if not pairs:
        raise unreadable("there is no formula here", Span(source, 0, min(len(source.text), 1)))
    return pairs


def _split(tokens: Sequence[Token]) -> Iterator[tuple[list[Token], list[Token]]]:
    """Equations: each begins on a line or after a comma, and has its own equals sign."""
    starts, equals, depth = [0], {0: -1}, 0
    for k, token in enumerate(tokens):
        depth += (token.type in OPENING) - (token.type in CLOSING)
        if depth > 0:
            continue
        if token.type in _BINDING:
            starts.append(k + 1)
            equals[k + 1] = -1
        elif token.type in ("EQUAL", "UPDATE") and equals[starts[-1]] < 0:
            equals[starts[-1]] = k
    left: list[Token] = []
    right: list[Token] = []
    skips = False  # a condition, `s.t. 0 < ...`
    for start, end in zip(starts, [*starts[1:], len(tokens) + 1], strict=True):
        piece = list(tokens[start : end - 1])
        at = equals[start] - start
        if (
            piece
            and piece[0].type == "WORD"
            and str(piece[0]).lower() in ("s.t.", "s.t", "subject to")
        ):
            if left or right:
                yield left, right
            left, right, skips = [], [], True
            continue
        if skips and at < 0:
            continue
        skips = False
        if at > 0 and _is_name(piece[:at]):
            if left or right:
                yield left, right
            sign = [piece[at]] if piece[at].type == "UPDATE" else []
            left, right = piece[:at] + sign, piece[at + 1 :]
        elif at == 0 and not right:
            right = piece[1:]
        elif piece and tokens[start - 1].type == "COMMA" and start:
            if left or right:
                yield left, right
            left, right = [], []  # `s.t. ...`, `where ...`: no formula
        elif piece:
            right += piece[1:] if piece[0].type == "EQUAL" and not right else piece
    if left or right:
        yield left, right


def _first(tokens: Sequence[Token]) -> list[Token]:
    """The formula before the first equals sign: `s = a = b` gives two for one name."""
    depth = 0
    for k, token in enumerate(tokens):
        depth += (token.type in OPENING) - (token.type in CLOSING)
        if token.type == "EQUAL" and depth == 0 and k:
            return list(tokens[:k])
    return list(tokens)


def _is_name(tokens: Sequence[Token]) -> bool:
    """Whether tokens are what an equation may define: `J(\\theta)`, `\\hat{A}_{i,t}`."""
    depth, names = 0, 0
    for k, token in enumerate(tokens):
        script = k > 0 and tokens[k - 1].type in ("SUB", "SUP")
        accented = k > 1 and tokens[k - 2].type == "ACCENT"
        names += (depth == 0 or accented) and not script and token.type in (
            "LETTER", "GREEK", "WORD", "CALLIGRAPHIC", "BLACKBOARD", "NABLA",
        )  # fmt: skip
        if depth == 0 and token.type in ("PLUS", "MINUS", "TIMES", "SLASH", "BIG", "FRAC"):
            return False
        depth += (token.type in OPENING) - (token.type in CLOSING)
    return 1 <= names <= 4


@cache
def _parser() -> Lark:
    text = (files("objdsl.grammars") / "tex.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer=Given, keep_all_tokens=True, maybe_placeholders=False)


def tree_of(source: Source, tokens: Sequence[Token]) -> Tree[Token]:
    """The tree of a formula.

    Raises:
        ObjectiveError: it is none.
    """
    if not tokens:
        raise unreadable("a formula is missing", Span(source, 0, min(1, len(source.text))))
    try:
        parsed = _parser().parse(tokens)  # type: ignore[arg-type]
    except UnexpectedInput as failure:
        token = failure.token if isinstance(failure, UnexpectedToken) else tokens[-1]
        if token.type == "$END" or token.start_pos is None:
            span = span_of(source, tokens[-1:])
            raise unreadable("the formula ends too early", span) from None
        span = span_of(source, [token])
        raise unreadable(f"`{span.text}` cannot stand here", span) from None
    child = parsed.children[0]
    assert isinstance(child, Tree)
    return child


def leaves(node: Node) -> list[Token]:
    if isinstance(node, Token):
        return [node]
    return [token for child in node.children for token in leaves(child)]


def span_of(source: Source, tokens: Sequence[Token]) -> Span:
    starts = [token.start_pos for token in tokens if token.start_pos is not None]
    ends = [token.end_pos for token in tokens if token.end_pos is not None]
    return Span(source, min(starts, default=0), max(ends, default=0))
