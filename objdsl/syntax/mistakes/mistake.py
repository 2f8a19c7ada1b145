"""A statement that the grammar cannot read: its tokens, and the first one that is not allowed."""

from __future__ import annotations

from functools import cached_property

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from objdsl.diagnostic import Diagnostic, Fix, Label
from objdsl.frozen import dataclass
from objdsl.source import Source, Span
from objdsl.syntax.foreign import ALIASES
from objdsl.syntax.grammar import grammar
from objdsl.syntax.language import FUNCTIONS
from objdsl.syntax.messages import FORMS, syntax
from objdsl.syntax.split import Piece

END = "$END"  # Lark's type of the end of the statement
UNKNOWN = "$UNKNOWN"  # our type of a character that starts no token
NAMES = frozenset(
    {"NAME", "AT", "LAYER", "AS", "STATE", "LEARN", "NEXT", "EVERY", "BY", "BEFORE", "TOP"}
)
VALUE_STARTS = NAMES | {"NUMBER", "INF", "INFINITY", "LENGTH", "LPAR"}
VALUE_ENDS = NAMES | {"NUMBER", "INF", "INFINITY", "LENGTH", "RPAR", "RSQB"}
ARITHMETIC = frozenset({"PLUS", "MINUS", "TIMES", "SLASH", "POWER"})
INFIX = ARITHMETIC | {"COMPARISON", "AND", "OR", "IF", "ELSE"}
CLOSED_BY = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
CLOSING = frozenset(CLOSED_BY.values())
_OF_ONE = {name for name, many in FUNCTIONS.items() if many == 1}
FUNCTION_NAMES = _OF_ONE | {name for name, meant in ALIASES.items() if meant in _OF_ONE} | {"geo"}
"""The functions of one value, by all the names that people give them."""

IF_ELSE = "write `a if condition else b`"


@dataclass(frozen=True)
class Mistake:
    """The tokens of a statement, of which the one at `at` is the first that is not allowed.

    `at` is `len(tokens)` if the statement ends too early. `accepts` has the names of the terminals
    that are allowed there.
    """

    source: Source
    piece: Piece
    tokens: tuple[Token, ...]
    at: int
    accepts: frozenset[str]

    def token(self, k: int) -> Token:
        """The `k`-th token; outside the statement an empty one at its edge."""
        if 0 <= k < len(self.tokens):
            return self.tokens[k]
        return Token(END, "", 0 if k < 0 else self.piece.end - self.piece.start)

    @property
    def here(self) -> Token:
        """The unexpected token."""
        return self.token(self.at)

    @property
    def before(self) -> Token:
        return self.token(self.at - 1)

    @property
    def after(self) -> Token:
        return self.token(self.at + 1)

    @property
    def statement(self) -> str:
        """The keyword that the statement starts with; empty where it starts with none."""
        first = self.token(0)
        soft = first.type in NAMES and self.token(1).type not in NAMES
        return str(first) if first in FORMS and not soft else ""

    @property
    def wants_value(self) -> bool:
        return "LENGTH" in self.accepts and not self.wants_operator

    @property
    def wants_operator(self) -> bool:
        return "TIMES" in self.accepts

    @cached_property
    def opened(self) -> tuple[int, ...]:
        """The tokens that are open brackets at the mistake, outermost first."""
        opened: list[int] = []
        for k, token in enumerate(self.tokens[: self.at]):
            if token.type in CLOSED_BY:
                opened.append(k)
            elif token.type in CLOSING and opened:
                opened.pop()
        return tuple(opened)

    @property
    def bracket(self) -> Token:
        """The innermost bracket that is open at the mistake."""
        return self.token(self.opened[-1] if self.opened else -1)

    @property
    def owner(self) -> Token:
        """The token before that bracket: the `mean` of `mean[...`."""
        return self.token(self.opened[-1] - 1 if self.opened else -1)

    @cached_property
    def level(self) -> tuple[Token, ...]:
        """The tokens before the mistake at its own level, with everything in brackets left out."""
        level: list[Token] = []
        start = self.opened[-1] + 1 if self.opened else 0
        depth = 0
        for token in self.tokens[start : self.at]:
            depth -= token.type in CLOSING
            if depth == 0:
                level.append(token)
            depth += token.type in CLOSED_BY
        return tuple(level)

    @property
    def in_binder(self) -> bool:
        """Whether the mistake is between `[` and `|` or `]` of a reduction."""
        return (
            self.bracket.type == "LSQB"
            and self.owner.type in NAMES
            and all(token.type != "VBAR" for token in self.level)
        )

    def adjacent(self, left: Token, right: Token) -> bool:
        """Whether two tokens touch: `**` is one mistake, `* *` is a different one."""
        return bool(right) and _start(left) + len(left) == _start(right)

    def span(self, first: Token, last: Token | None = None) -> Span:
        start = self.piece.start + _start(first)
        span = Span(self.source, start, start + len(first))
        return span if last is None else span.to(self.span(last))

    def diagnostic(
        self,
        message: str,
        first: Token | None = None,
        last: Token | None = None,
        *,
        under: str = "",
        help: str = "",
        label: tuple[Token, str] | None = None,
        choices: tuple[Fix, ...] = (),
    ) -> Diagnostic:
        """A diagnostic from one token to another, or at the mistake itself."""
        span = self.span(self.here if first is None else first, last)
        labels = () if label is None else (Label(self.span(label[0]), label[1]),)
        return syntax(message, span, under=under, labels=labels, help=help, choices=choices)

    def closing(self, opening: int) -> int | None:
        """The token that closes the bracket at a token; None if there is none."""
        depth = 0
        for k, token in enumerate(self.tokens[opening:], opening):
            depth += token.type in CLOSED_BY
            depth -= token.type in CLOSING
            if not depth:
                return k
        return None

    def operand(self, first: int) -> int:
        """The last token of the operand that starts at a token: `f(x)`, `pi[v]`, `(x)`, `2`."""
        last = first
        while self.token(last + 1).type in ("LPAR", "LSQB") or last == first:
            opening = last if self.token(last).type == "LPAR" and last == first else last + 1
            if self.token(opening).type not in ("LPAR", "LSQB"):
                return last
            closing = self.closing(opening)
            if closing is None:
                return last
            last = closing
        return last


def _start(token: Token) -> int:
    """Where a token of the lexer starts; in Lark's types, tokens made by hand have no position."""
    return token.start_pos or 0


def locate(source: Source, piece: Piece, error: UnexpectedInput) -> Mistake:
    text = source.text[piece.start : piece.end]
    tokens: list[Token] = []
    try:
        tokens.extend(grammar().lex(text))
    except UnexpectedCharacters as bad:
        place = bad.pos_in_stream or 0
        tokens.append(Token(UNKNOWN, text[place], place))
    if isinstance(error, UnexpectedToken) and error.token.type == END:
        at = len(tokens)
    else:
        at = [token.start_pos for token in tokens].index(error.pos_in_stream)
    accepts = frozenset(error.interactive_parser.accepts())  # type: ignore[no-untyped-call]
    return Mistake(source, piece, tuple(tokens), at, accepts)


def is_keyword(token: Token) -> bool:
    return token.type not in NAMES and token.isascii() and token.isalpha()


def spelling(terminal: str) -> str:
    """How a terminal of the grammar is written, for a message."""
    pattern = grammar().get_terminal(terminal).pattern
    assert isinstance(pattern, PatternStr)
    return f"`{pattern.value}`"
