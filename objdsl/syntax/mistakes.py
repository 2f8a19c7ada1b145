"""A statement that the grammar cannot read: what the user probably meant.

Lark finds the first unexpected token. `explain` tries `RULES` in turn; the first rule that
recognises the mistake gives the message. `tests/golden/syntax/errors.txt` shows them all.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from objdsl.diagnostic import Diagnostic, Edit, Fix, Label, near
from objdsl.frozen import dataclass
from objdsl.ir.ops import REDUCTIONS
from objdsl.source import Source, Span
from objdsl.syntax.foreign import ALIASES, LATEX, MODULES, is_divergence, is_expectation, said_here
from objdsl.syntax.grammar import grammar
from objdsl.syntax.language import FUNCTIONS, SAMPLING_NUMBERS
from objdsl.syntax.messages import FORMS, divergence, expectation, syntax, two_readings
from objdsl.syntax.split import Piece

_END = "$END"  # Lark's type of the end of the statement
_UNKNOWN = "$UNKNOWN"  # our type of a character that starts no token

_NAMES = frozenset({"NAME", "AT", "LAYER", "AS", "STATE", "NEXT", "EVERY", "BY", "BEFORE", "TOP"})
_VALUE_STARTS = _NAMES | {"NUMBER", "INF", "INFINITY", "LENGTH", "LPAR"}
_VALUE_ENDS = _NAMES | {"NUMBER", "INF", "INFINITY", "LENGTH", "RPAR", "RSQB"}
_ARITHMETIC = frozenset({"PLUS", "MINUS", "TIMES", "SLASH", "POWER"})
_INFIX = _ARITHMETIC | {"COMPARISON", "AND", "OR", "IF", "ELSE"}
_CLOSED_BY = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_CLOSING = frozenset(_CLOSED_BY.values())
_GROUPED = frozenset({"per", "over", "of", "within", "for", "in", "group", "groupby", "with"})
_OF_ONE = {name for name, many in FUNCTIONS.items() if many == 1}
_FUNCTIONS = _OF_ONE | {name for name, meant in ALIASES.items() if meant in _OF_ONE} | {"geo"}


def explain(source: Source, piece: Piece, error: UnexpectedInput) -> Diagnostic:
    """The diagnostic of a statement that Lark could not read."""
    mistake = _locate(source, piece, error)
    for rule in RULES:
        if (diagnostic := rule(mistake)) is not None:
            return diagnostic
    return _unexpected(mistake)


@dataclass(frozen=True)
class _Mistake:
    """The tokens of a statement, of which the one at `at` is the first that cannot stand there.

    `at` is `len(tokens)` where the statement ends too early. `accepts` holds the names of the
    terminals that could have stood there instead.
    """

    source: Source
    piece: Piece
    tokens: tuple[Token, ...]
    at: int
    accepts: frozenset[str]

    def token(self, k: int) -> Token:
        """The `k`-th token; outside the statement an empty one that stands at its edge."""
        if 0 <= k < len(self.tokens):
            return self.tokens[k]
        return Token(_END, "", 0 if k < 0 else self.piece.end - self.piece.start)

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
        soft = first.type in _NAMES and self.token(1).type not in _NAMES
        return str(first) if first in FORMS and not soft else ""

    @property
    def wants_value(self) -> bool:
        return "LENGTH" in self.accepts and not self.wants_operator

    @property
    def wants_operator(self) -> bool:
        return "TIMES" in self.accepts

    @cached_property
    def opened(self) -> tuple[int, ...]:
        """Which tokens are brackets that are open at the mistake, outermost first."""
        opened: list[int] = []
        for k, token in enumerate(self.tokens[: self.at]):
            if token.type in _CLOSED_BY:
                opened.append(k)
            elif token.type in _CLOSING and opened:
                opened.pop()
        return tuple(opened)

    @property
    def bracket(self) -> Token:
        """The innermost bracket that is open at the mistake."""
        return self.token(self.opened[-1] if self.opened else -1)

    @property
    def owner(self) -> Token:
        """What stands before that bracket: the `mean` of `mean[...`."""
        return self.token(self.opened[-1] - 1 if self.opened else -1)

    @cached_property
    def level(self) -> tuple[Token, ...]:
        """The tokens before the mistake at its own level, with everything in brackets left out."""
        level: list[Token] = []
        start = self.opened[-1] + 1 if self.opened else 0
        depth = 0
        for token in self.tokens[start : self.at]:
            depth -= token.type in _CLOSING
            if depth == 0:
                level.append(token)
            depth += token.type in _CLOSED_BY
        return tuple(level)

    @property
    def in_binder(self) -> bool:
        """Whether the mistake is between `[` and `|` or `]` of a reduction."""
        return (
            self.bracket.type == "LSQB"
            and self.owner.type in _NAMES
            and all(token.type != "VBAR" for token in self.level)
        )

    def adjacent(self, left: Token, right: Token) -> bool:
        """Whether two tokens touch: `**` is one mistake, `* *` is another."""
        return bool(right) and _start(left) + len(left) == _start(right)

    def span(self, first: Token, last: Token | None = None) -> Span:
        start = self.piece.start + _start(first)
        span = Span(self.source, start, start + len(first))
        return span if last is None else span.to(self.span(last))

    def says(
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
        """The token that closes the bracket at a token; None where nothing does."""
        depth = 0
        for k, token in enumerate(self.tokens[opening:], opening):
            depth += token.type in _CLOSED_BY
            depth -= token.type in _CLOSING
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
    """Where a token of the lexer starts; Lark's types allow tokens that were made by hand."""
    return token.start_pos or 0


def _locate(source: Source, piece: Piece, error: UnexpectedInput) -> _Mistake:
    text = source.text[piece.start : piece.end]
    tokens: list[Token] = []
    try:
        tokens.extend(grammar().lex(text))
    except UnexpectedCharacters as bad:
        place = bad.pos_in_stream or 0
        tokens.append(Token(_UNKNOWN, text[place], place))
    if isinstance(error, UnexpectedToken) and error.token.type == _END:
        at = len(tokens)
    else:
        at = [token.start_pos for token in tokens].index(error.pos_in_stream)
    accepts = frozenset(error.interactive_parser.accepts())  # type: ignore[no-untyped-call]
    return _Mistake(source, piece, tuple(tokens), at, accepts)


# --- what papers write ---------------------------------------------------------------------------

_SUBSCRIPTS = re.compile(r"(?:_\w*|_?\{[^{}]*\}|\^?[\\*~]|[ \t])*(?=[\[({])")
_OF_TWO = re.compile(r"[\[(]\s*(\w+)\s*(?:\|\|?|∥|‖|,|;)\s*(\w+)\s*[\])]")


def _applied(source: Source, start: int, end: int) -> tuple[Span, Span, Span] | None:
    """`E_{t}[x]`, where the `E` stands from `start` to `end`: all of it, the text up to `x`, and
    the bracket that closes it; None where no bracket does."""
    text = source.text
    subscripts = _SUBSCRIPTS.match(text, end)
    if subscripts is None:
        return None
    opening, depth = subscripts.end(), 0
    for k in range(opening, min(len(text), opening + 4096)):
        depth += text[k] in "([{"
        depth -= text[k] in ")]}"
        if not depth:
            return (
                Span(source, start, k + 1),
                Span(source, start, opening + 1),
                Span(source, k, k + 1),
            )
    return None


def _paper(m: _Mistake) -> Diagnostic | None:
    """`E[...]` and `KL(p || q)`: an error inside their brackets is not reported."""
    names = [m.tokens[k - 1] for k in m.opened if m.tokens[k - 1].type in _NAMES]
    for name in (*names, m.before, m.here):
        if name.type not in _NAMES:
            continue
        start = m.span(name).start
        if is_expectation(str(name)) and (spans := _applied(m.source, start, start + len(name))):
            return expectation(*spans)
        if is_divergence(str(name)) and (spans := _applied(m.source, start, start + len(name))):
            whole, head, _ = spans
            if of_two := _OF_TWO.fullmatch(m.source.text, head.end - 1, whole.end):
                return divergence(whole, of_two[1], of_two[2])
    return None


def _latex(m: _Mistake) -> Diagnostic | None:
    """`\\frac{a}{b}`, `\\mathbb{E}[x]`."""
    text = m.source.text
    at = m.span(m.here).start
    command = re.compile(r"\\([A-Za-z]+)\*?").match(text, at)
    if m.here.type != _UNKNOWN or command is None:
        return None
    word, end = command[1], command.end()
    letter = re.compile(r"\s*\{?\s*(?:E|\\mathbb\{E\})\s*\}?").match(text, end)
    after = letter.end() if letter else end
    expects = word == "E" or (letter and word in ("mathbb", "mathbf", "mathrm", "operatorname"))
    if expects and (spans := _applied(m.source, at, after)):
        return expectation(*spans)
    if word == "KL":
        return m.says("a formula is not LaTeX", help=LATEX["KL"])
    span = Span(m.source, at, end)
    help = LATEX.get(word) or said_here(word)
    example = "for example `beta * log(pi / ref)`, `mean[t] x`, `a / b`"
    return syntax(
        "a formula is not LaTeX: names are written without a backslash", span,
        help=f"`\\{word}`: {help}" if help else example,
    )  # fmt: skip


def _bracketless(m: _Mistake) -> Diagnostic | None:
    """`log pi / ref`."""
    starts = m.here.type in _VALUE_STARTS - {"LPAR"}
    if str(m.before) not in _FUNCTIONS or not starts or not m.wants_operator:
        return None
    ends = [m.operand(m.at)]
    while m.token(ends[-1] + 1).type in ("TIMES", "SLASH", "POWER"):
        if m.token(ends[-1] + 2).type not in _VALUE_STARTS:
            break
        ends.append(m.operand(ends[-1] + 2))
    function, whole = str(m.before), m.span(m.before, m.token(ends[-1]))
    choices = []
    for end in dict.fromkeys((ends[0], ends[-1])):
        between = Span(m.source, m.span(m.before).end, m.span(m.here).start)
        stop = m.span(m.token(end)).end
        inside = Span(m.source, between.end, stop).text
        rest = Span(m.source, stop, whole.end).text
        edits = (Edit(between, "("), Edit(Span(m.source, stop, stop), ")"))
        choices.append(Fix(f"`{function}({' '.join(inside.split())}){rest}`", edits))
    if len(choices) == 1:
        return m.says(
            f"the argument of `{function}` needs round brackets", m.before,
            m.token(ends[-1]), choices=tuple(choices),
        )  # fmt: skip
    return two_readings(
        f"the argument of `{function}` may end before or after `{m.token(ends[0] + 1)}`", whole,
        "the argument of a function needs round brackets", tuple(choices),
    )  # fmt: skip


def _braces(m: _Mistake) -> Diagnostic | None:
    """`r^{2}`."""
    if m.here.type != "LBRACE" or m.before.type != "POWER":
        return None
    closing = m.closing(m.at)
    if closing is None:
        return m.says("an exponent needs round brackets", help="for example `x^(1 / |y|)`")
    whole = m.span(m.here, m.token(closing))
    inside = whole.text[1:-1].strip()
    plain = inside if re.fullmatch(r"-?[\w.]+", inside) else f"({inside})"
    return m.says(
        "an exponent has no curly brackets", m.here, m.token(closing),
        choices=(Fix(f"`{m.token(m.at - 2)}^{plain}`", (Edit(whole, plain),)),),
    )  # fmt: skip


def _where(m: _Mistake) -> Diagnostic | None:
    """`where(c, a, b)`."""
    if str(m.here) != "where" or m.after.type != "LPAR":
        return None
    closing = m.closing(m.at + 1)
    message = "write a choice as `a if condition else b`"
    choices: tuple[Fix, ...] = ()
    if closing is not None:
        parts, depth = [[]], 0  # type: list[list[Token]], int
        for token in m.tokens[m.at + 2 : closing]:
            depth += token.type in _CLOSED_BY
            depth -= token.type in _CLOSING
            if token.type == "COMMA" and not depth:
                parts.append([])
            else:
                parts[-1].append(token)
        if len(parts) == 3 and all(parts):
            condition, a, b = (m.span(part[0], part[-1]).text for part in parts)
            text = f"({a} if {condition} else {b})"
            whole = m.span(m.here, m.token(closing))
            choices = (Fix(f"`{' '.join(text.split())}`", (Edit(whole, text),)),)
    last = m.token(closing if closing is not None else m.at)
    return m.says(message, m.here, last, choices=choices)


def _member(m: _Mistake) -> Diagnostic | None:
    """`torch.min(a, b)`, `x.mean(-1)`, `x.detach()`."""
    if m.here.type != _UNKNOWN or m.here != "." or m.before.type not in _VALUE_ENDS:
        return None
    start = m.span(m.here).start
    chain = re.compile(r"(?:\.\w+)+").match(m.source.text, start)
    if chain is None:
        return None
    word = chain[0].rsplit(".", 1)[-1]
    if str(m.before) in MODULES:
        first = m.span(m.before).start
        whole = Span(m.source, first, chain.end())
        known = word in (*_FUNCTIONS, *REDUCTIONS, "clip")
        help = said_here(word) or "" if not known else f"the function is called `{word}`"
        if word == "where":
            help = _IF_ELSE
        return syntax("an objective is a formula: there are no modules", whole, help=help)
    help = "functions and reductions come first: `exp(x)`, `mean[t] x`"
    if word in REDUCTIONS:
        help = f"a reduction comes first, and names its index: `{word}[t] x`, `{word}[i] x`"
    elif ALIASES.get(word) == "sg":
        help = "a value without its gradient is `sg(x)`"
    elif meaning := said_here(word):
        help = meaning
    return syntax(
        "a value has no attributes and no methods", Span(m.source, start, chain.end()), help=help
    )


def _option(m: _Mistake) -> Diagnostic | None:
    """`temperature T`, in a `sample` statement or alone."""
    if m.at == 1 and str(m.before) in SAMPLING_NUMBERS and m.here.type in _NAMES | {"NUMBER"}:
        return m.says(
            "this option belongs in the `sample` statement", m.before, m.here,
            help=f"write `sample from mu: {m.before} {m.here}`, with a number",
        )  # fmt: skip
    if m.statement == "sample" and str(m.before) in SAMPLING_NUMBERS and m.here.type in _NAMES:
        return m.says(
            f"the value of `{m.before}` is a number",
            help=f"for example `{m.before} 1`; it cannot be a parameter",
        )
    return None


# --- characters and keywords of other languages --------------------------------------------------

_CHARACTERS = {
    "&": "and", "!": "not", "∧": "and", "∨": "or", "¬": "not", "÷": "/", "∕": "/", "⁄": "/",
    "∗": "*", "⋅": "*", "•": "*", "⊙": "*", "–": "-", "—": "-", "‐": "-", "⩽": "<=", "⩾": ">=",
    "⟨": "(", "⟩": ")", "√": "sqrt", "←": "=", "≔": "=", "≡": "==", "²": "^2", "³": "^3",
}  # fmt: skip

_LETTERS = "a name consists of the letters a-z and A-Z, Greek letters, digits and `_`"
_IF_ELSE = "write `a if condition else b`"

_SIGNS = {
    "||": "or", "=<": "<=", "=>": ">=", "<>": "!=", "===": "==", "!==": "!=", ":=": "=",
}  # fmt: skip

_PYTHON = {
    "for": "a reduction runs over an index: `sum[t] x`",
    "from": "to start from another objective, write `objective NAME from NAME`",
    "import": "to start from another objective, write `objective NAME from NAME`",
    "is": "to compare, write `==`",
    "lambda": f"to make a function, write `{FORMS['def']}`",
    "return": f"a file ends with its goal: `{FORMS['maximize']}`",
} | dict.fromkeys(
    ("assert", "class", "elif", "print", "raise", "try", "while", "with", "yield"), ""
)


def _character(m: _Mistake) -> Diagnostic | None:
    if m.here.type != _UNKNOWN:
        return None
    char = str(m.here)
    if char == ";":
        return m.says("a statement ends at the end of its line, without `;`", under="delete this")
    if char == "'" and m.before.type in _NAMES and m.adjacent(m.before, m.here):
        help = f"for example `{m.before}_2`"
        return m.says("a name has no primes", m.before, m.here, help=help)
    if char in "'\"`“”‘’":
        return m.says("a formula has no strings", help="names are written without quotes")
    if char == "\\":
        return m.says(
            "a backslash does not continue a line",
            help="put the formula in brackets: inside them line ends are ignored",
        )
    if unicodedata.normalize("NFKD", char)[0] == "E" or char == "ℰ":
        start = m.span(m.here).start
        if spans := _applied(m.source, start, start + 1):
            return expectation(*spans)
    if char in "∥‖":
        help = "a divergence is `k3(pi, ref)`, or `kl(pi, ref)` over the vocabulary"
        return m.says(f"`{char}` has no meaning here", help=help)
    if char == "%":
        return m.says("`%` is not an operator", help="5 percent is `0.05`")
    if char == "?":
        return m.says("`?` has no meaning here", help=_IF_ELSE)
    if unicodedata.combining(char):
        bare = m.before if m.before.type in _NAMES and m.adjacent(m.before, m.here) else m.here
        name = unicodedata.name(char, "unnamed").lower()
        return m.says(f"a {name} cannot be part of a name", bare, m.here, help=_LETTERS)
    meant = _CHARACTERS.get(char) or unicodedata.normalize("NFKC", char)
    if meant != char and meant.isascii():
        end = m.span(m.here).end
        doubled = char == "&" and m.source.text.startswith("&", end)
        span = Span(m.source, end - 1, end + doubled)
        return syntax(f"`{span.text}` is written `{meant}`", span)
    if char.isalpha():
        name = unicodedata.name(char, "unnamed").lower()
        return m.says(
            f"`{char}` ({name}) cannot be part of a name",
            help=_LETTERS,
        )
    return m.says(f"`{char}` has no meaning here")


def _python(m: _Mistake) -> Diagnostic | None:
    if m.here == "from":
        word = m.here if m.at == 0 and m.after.type in _NAMES else None
    else:
        word = next((word for word in (m.here, m.before) if word in _PYTHON), None)
    if word is None or word == "from" != m.here:
        return None
    return m.says(
        f"`{word}` is Python, but an objective is a formula", word, help=_PYTHON[str(word)]
    )


def _signs(m: _Mistake) -> Diagnostic | None:
    """Two adjacent signs that are one operator in other languages."""
    for left, right in ((m.before, m.here), (m.here, m.after)):
        if not m.adjacent(left, right):
            continue
        written = f"{left}{right}"
        if written in _SIGNS:
            return m.says(f"`{written}` is written `{_SIGNS[written]}`", left, right)
        if written == "//":
            help = "divide by `/`; a comment starts with `#`"
            return m.says("`//` is not an operator", left, right, help=help)
        if m.at == 1 and left.type in _ARITHMETIC and right == "=":
            name = m.token(0)
            return m.says(
                "a name is defined once, and keeps its value",
                left,
                right,
                help=f"give the result a name of its own: `{name}_2 = {name} {left} ...`",
            )
    return None


def _subscript(m: _Mistake) -> Diagnostic | None:
    """`r_{i,t}`."""
    if m.here.type != "LBRACE" or not m.before.endswith("_") or not m.adjacent(m.before, m.here):
        return None
    name = m.before.rstrip("_")
    if name in REDUCTIONS:
        index = re.match(r"\{\s*([pitv])\b", m.source.text[m.span(m.here).start :])
        return m.says(
            f"the index of `{name}` goes in square brackets",
            m.before,
            help=f"it has no limits: `{name}[{index[1] if index else 't'}] x`",
        )
    return m.says(
        "a name has no subscripts: indices are implied",
        m.before,
        m.here,
        help=f"write `{name}`",
    )


def _digits(m: _Mistake) -> Diagnostic | None:
    """`4,096` and `4_096`."""
    if m.before.type != "NUMBER" or not m.adjacent(m.before, m.here):
        return None
    comma = m.here.type == "COMMA" and m.adjacent(m.here, m.after)
    if comma and not m.opened and m.after.type == "NUMBER":
        return m.says("a number has no commas", m.before, m.after, under="write the digits alone")
    if m.here.type in _NAMES and m.here.startswith("_") and m.here.strip("_").isdigit():
        return m.says("a number has no `_`", m.before, m.here, under="write the digits alone")
    return None


# --- how a statement starts ----------------------------------------------------------------------


def _first(m: _Mistake) -> Diagnostic | None:
    """A statement with an invalid first token."""
    if m.at != 0:
        return None
    if m.here.type in _CLOSING:
        return m.says(f"this `{m.here}` has no matching opening bracket")
    if m.here.type == "IF":
        return m.says(
            "there is no `if` statement, only a conditional value",
            help=f"{_IF_ELSE}: `x = a if A > 0 else b`",
        )
    if m.here.type in _INFIX:
        return m.says(
            f"a statement cannot start with `{m.here}`",
            help="to continue the line above, put its formula in brackets: inside them line ends "
            "are ignored",
        )
    return _not_a_name(m, m.here) if _is_keyword(m.here) else _unused(m)


def _second(m: _Mistake) -> Diagnostic | None:
    """A statement that starts with a name that `=` does not follow."""
    first = m.token(0)
    if m.at != 1 or first.type not in _NAMES:
        return None
    binds = any(token.type == "EQUAL" for token in m.tokens)
    if m.here.type == "COMMA":
        return m.says("a statement defines one name")
    if m.here.type == "LPAR" and binds:
        return m.says("a function starts with `def`", first, help=f"for example `{FORMS['def']}`")
    if m.here.type == "LSQB" and binds:
        return m.says(
            "a definition has no indices: they are implied",
            first,
            help=f"write `{first} = ...`",
        )
    if m.here.type in _INFIX or m.here.type in ("LPAR", "LSQB"):
        return _unused(m)
    goal = {"max": "maximize", "min": "minimize"}.get(str(first))
    if str(first) in REDUCTIONS and goal is None:
        return _index_without_brackets(m, first)
    if meant := goal or near(str(first), FORMS):
        return m.says(
            f"`{first}` does not start a statement",
            first,
            under=f"did you mean `{meant}`?",
            help=f"for example `{FORMS[meant]}`",
        )
    name = m.here if m.after == "=" else first
    return m.says(
        f"`{first}` does not start a statement",
        first,
        help=f"to define a name, write `{name} = ...`",
    )


def _unused(m: _Mistake) -> Diagnostic:
    return m.says(
        "this value is not used",
        m.token(0),
        m.token(len(m.tokens) - 1),
        help="name it, `x = ...`; log it, `report x = ...`; or make it the goal, `maximize ...`",
    )


def _keyword_bound(m: _Mistake) -> Diagnostic | None:
    """`report = x`, `maximize: x`."""
    if m.at != 1 or not m.statement or m.here.type not in ("EQUAL", "COLON"):
        return None
    return m.says(
        f"`{m.statement}` is a keyword: it starts a different kind of statement",
        m.token(0),
        help=f"for example `{FORMS[m.statement]}`",
    )


def _keyword(m: _Mistake) -> Diagnostic | None:
    """A keyword in place of a name."""
    if not _is_keyword(m.here) or not m.accepts & _NAMES:
        return None
    if (m.wants_value or m.wants_operator) and m.here.type in _INFIX | {"NOT", "IN"}:
        return None
    return _not_a_name(m, m.here)


def _not_a_name(m: _Mistake, keyword: Token) -> Diagnostic:
    help = ""
    if str(keyword) in FORMS:
        help = f"it starts a statement: `{FORMS[str(keyword)]}`"
    elif keyword == "critic":
        help = f"the loss of the critic is minimized: `{FORMS['minimize']}`"
    elif m.at and m.statement:
        help = f"for example `{FORMS[m.statement]}`"
    return m.says(f"`{keyword}` is a keyword, and cannot be a name", keyword, help=help)


# --- brackets and commas -------------------------------------------------------------------------


def _never_closed(m: _Mistake) -> Diagnostic | None:
    if m.here.type != _END or not m.piece.unclosed:
        return None
    offset = m.piece.unclosed[-1]
    span = Span(m.source, offset, offset + 1)
    return syntax(f"this `{span.text}` is never closed", span)


def _empty(m: _Mistake) -> Diagnostic | None:
    """A comma or a bracket with nothing before it."""
    if m.here.type not in _CLOSING | {"COMMA"}:
        return None
    if m.before.type == "COMMA":
        return m.says("nothing follows this comma", m.before, under="delete it, or add a value")
    if m.before.type not in _CLOSED_BY:
        return None
    if m.here.type == "COMMA":
        return m.says("nothing precedes this comma")
    if m.in_binder and m.here.type == "RSQB":
        help = f"for example `{m.owner}[t]` or `{m.owner}[p,i,t]`"
        return m.says("these brackets need an index", m.before, m.here, help=help)
    return m.says("these brackets are empty", m.before, m.here)


def _wrong_bracket(m: _Mistake) -> Diagnostic | None:
    if m.here.type not in _CLOSING or m.before.type in _INFIX:
        return None
    if not m.opened:
        return m.says(f"this `{m.here}` has no matching opening bracket")
    closing = _CLOSED_BY[m.bracket.type]
    if m.here.type == closing:
        return None
    return m.says(
        f"`{m.here}` cannot close `{m.bracket}`",
        under=f"close it by {_spelling(closing)}",
        label=(m.bracket, "opened here"),
    )


def _list(m: _Mistake) -> Diagnostic | None:
    """`[1, 2]`, `(a, b)`."""
    opens = m.wants_value and m.here.type in ("LSQB", "LBRACE")
    is_grouped = m.bracket.type == "LPAR" and m.owner.type not in _VALUE_ENDS
    if opens or (is_grouped and m.here.type == "COMMA"):
        return m.says(
            "a formula has no lists", help="the indices of a value follow from its formula"
        )
    return None


# --- the parts of a formula ----------------------------------------------------------------------


def _bar(m: _Mistake) -> Diagnostic | None:
    if m.here.type != "VBAR":
        return None
    if m.wants_value:
        return m.says("`|...|` can only be `|y|`", help="an absolute value is `abs(x)`")
    return m.says(
        "a condition goes in the brackets of a reduction, after its indices",
        help="for example `mean[t | M] x`; the logical operator is `or`",
    )


def _equal(m: _Mistake) -> Diagnostic | None:
    """`=` inside a formula."""
    if m.here.type != "EQUAL":
        return None
    if m.statement in ("maximize", "minimize") and m.level[1:] == (m.before,) and not m.opened:
        return m.says(
            "a goal has no name",
            m.before,
            m.here,
            help=f"write `{m.statement} ...`; to log a value, write `report {m.before} = ...`",
        )
    if m.statement == "sample":
        return m.says("the value of an option follows its name", help="for example `group 16`")
    if m.in_binder:
        return m.says(
            "square brackets list indices, without values",
            help=f"for example `{m.owner}[p,i,t]`, `{m.owner}[j != i]` or `{m.owner}[s >= t]`",
        )
    named = len(m.level) == 1 or (len(m.level) > 1 and m.level[-2].type == "COMMA")
    if m.bracket.type == "LPAR" and m.owner.type in _NAMES and named:
        return m.says(
            "function arguments are positional",
            m.before,
            m.here,
            help="write them in the order of the definition: `clip(r, 1 - eps, 1 + eps)`",
        )
    if m.wants_operator:
        return m.says("`=` defines a name, it does not compare", under="write `==`")
    return None


def _chain(m: _Mistake) -> Diagnostic | None:
    """`0 < x < 1`."""
    if m.here.type != "COMPARISON" or m.before.type not in _VALUE_ENDS or m.in_binder:
        return None
    first = next((token for token in reversed(m.level) if token.type == "COMPARISON"), None)
    if first is None:
        return None
    middle = m.span(m.tokens[m.tokens.index(first) + 1], m.before).text
    if len(middle) > 30 or "\n" in middle:
        middle = "x"
    return m.says(
        "comparisons cannot be chained",
        help=f"write `... {first} {middle} and {middle} {m.here} ...`",
        label=(first, "the first comparison"),
    )


def _conditional(m: _Mistake) -> Diagnostic | None:
    if m.here.type == "IF" and m.wants_value:
        return m.says("a value goes before its `if`", help=_IF_ELSE)
    if "ELSE" in m.accepts and m.here.type not in _VALUE_STARTS | {"EQUAL"}:
        opening = next(token for token in reversed(m.level) if token.type == "IF")
        return m.says("this `if` has no `else`", opening, help=_IF_ELSE)
    return None


def _binder(m: _Mistake) -> Diagnostic | None:
    """Something other than an index between `[` and `]`."""
    if not m.in_binder:
        return None
    if m.here.type in ("COLON", "NUMBER"):
        return m.says(
            "square brackets list indices: there are no positions or slices",
            help="for example `mean[t] x`; the value at the next token is `next(x)`",
        )
    grouped = any(token.type == "BY" for token in m.level)
    if m.here.type == "COMPARISON" and not grouped:
        return m.says(
            "brackets hold one relation, before any other indices",
            help="for example `sum[i] sum[s >= t] x`, or `mean[j != i, t by turn] x`",
        )
    if str(m.here) in _GROUPED and m.after.type in _VALUE_STARTS and not grouped:
        return m.says("elements are grouped with `by`", help="for example `mean[t by turn] x`")
    if m.here.type in _VALUE_STARTS:
        if m.after.type in ("COMMA", "RSQB", "VBAR", "BY"):
            return m.says(f"`,` is missing before `{m.here}`")
        return _missing_bracket(m)
    return None


def _negation(m: _Mistake) -> Diagnostic | None:
    """`mean[t] not x`."""
    if m.here.type != "NOT" or m.wants_value:
        return None
    return m.says("`not` and its operand need brackets here", help="for example `(not x)`")


def _role(m: _Mistake) -> Diagnostic | None:
    """`given x[p,i] as reward in [0, 1]`."""
    roles = [k for k, token in enumerate(m.tokens[: m.at]) if token.type == "AS"]
    if m.statement != "given" or m.here.type not in ("IN", "ELEMENT") or not roles:
        return None
    return m.says("a domain goes before `as`", help=f"for example `{FORMS['given']}`")


def _state(m: _Mistake) -> Diagnostic | None:
    """`state x = a / 2 next ...`."""
    begun = m.statement == "state" and not any(t.type == "NEXT" for t in m.level)
    if not begun or m.opened or m.here.type not in _INFIX | {"LSQB"}:
        return None
    return m.says(
        "a state starts from a number or a name; anything else stands in brackets",
        help=f"for example `state {m.token(1)} = (1 / 2) next ...`",
    )


def _param(m: _Mistake) -> Diagnostic | None:
    domain = any(token.type in ("IN", "ELEMENT") for token in m.tokens[: m.at])
    if domain and m.here.type == "COMMA" and m.bracket.type != "LBRACE":
        return m.says(
            "an interval has two ends", help="for example `in (0, 1)`; values are `in {0, 1, 2}`"
        )
    if m.here.type in ("IN", "ELEMENT") and m.token(1).type == "EQUAL":
        return m.says(
            "only a `param` or a `given` has a domain",
            help=f"write `param {m.token(0)} = ...`, as in `{FORMS['param']}`",
        )
    if m.statement != "param" or m.at < 3:
        return None
    if m.before.type in ("IN", "ELEMENT"):
        return m.says(
            "a domain is an interval or a list of values",
            help="for example `in (0, 1)`, `in [0, inf)` or `in {0, 1}`",
        )
    if m.here.type in _ARITHMETIC or (m.before.type == "EQUAL" and m.here.type in _VALUE_STARTS):
        name = m.token(1)
        return m.says(
            f"the default of `{name}` must be a number",
            help=f"a formula needs no `param`: `{name} = ...`",
        )
    return None


# --- what is missing -----------------------------------------------------------------------------


def _missing_value(m: _Mistake) -> Diagnostic | None:
    if not m.wants_value:
        return None
    help = ""
    if m.here.type == _END and m.before.type in _INFIX:
        help = "a formula continues on the next line only inside brackets"
    return m.says(f"a value is missing after `{m.before}`", m.before, help=help)


def _missing_operator(m: _Mistake) -> Diagnostic | None:
    if not m.wants_operator or m.here.type not in _VALUE_STARTS:
        return None
    if str(m.before) in REDUCTIONS:
        return _index_without_brackets(m, m.before)
    reduction, _, index = m.before.partition("_")
    if reduction in REDUCTIONS and index in ("p", "i", "t", "v"):
        return m.says(
            f"the index of `{reduction}` goes in square brackets",
            m.before,
            under=f"write `{reduction}[{index}]`",
        )
    if m.after.type == "EQUAL" and m.here.type in _NAMES and not m.opened:
        return m.says(
            "a statement ends at the end of its line",
            help=f"start a line with `{m.here} = ...`",
        )
    call = m.tokens[max(m.at - 4, 0) : m.at]
    if [token.type for token in call] == ["NAME", "LPAR", "NAME", "RPAR"]:
        function, _, index, closing = call
        if str(function) in REDUCTIONS:
            return m.says(
                f"the index of `{function}` goes in square brackets",
                function,
                closing,
                under=f"write `{function}[{index}]`",
            )
    if m.bracket.type == "LSQB" and m.piece.unclosed:
        return _missing_bracket(m)
    help = "write a product with `*`"
    if m.bracket.type == "LPAR" and m.owner.type in _VALUE_ENDS:
        help = "two values are separated by `,`, and a product is written with `*`"
    return m.says(
        f"an operator is missing between `{m.before}` and `{m.here}`", m.before, m.here, help=help
    )


def _index_without_brackets(m: _Mistake, reduction: Token) -> Diagnostic:
    return m.says(
        f"the index of `{reduction}` goes in square brackets",
        reduction,
        help=f"for example `{reduction}[t] x`",
    )


def _missing_bracket(m: _Mistake) -> Diagnostic:
    return m.says(f"`]` is missing before `{m.here}`", label=(m.bracket, "opened here"))


def _missing_word(m: _Mistake) -> Diagnostic | None:
    """A keyword or sign that every such statement has at this place."""
    if m.wants_operator or not m.statement:
        return None
    words = ("EQUAL", "NEXT", "COLON", "FROM", "WHERE", "AT", "LAYER", "LPAR", "COMMA")
    wanted = m.accepts - ({"AT"} if "BEFORE" in m.accepts else set())
    missing = next((_spelling(word) for word in words if word in wanted), None)
    if m.accepts >= _NAMES:
        missing = "a name"
    if missing is None:
        return None
    help = f"for example `{FORMS[m.statement]}`"
    if m.here.type == _END:
        return m.says(f"{missing} is missing after `{m.before}`", m.before, help=help)
    return m.says(f"{missing} is missing before `{m.here}`", help=help)


def _unexpected(m: _Mistake) -> Diagnostic:
    expected = _expected(m)
    if m.here.type == _END:
        return m.says(f"{expected} is missing after `{m.before}`", m.before)
    return m.says(f"`{m.here}` is not possible here", help=f"expected {expected}")


RULES = (
    _paper,
    _latex,
    _member,
    _character,
    _python,
    _signs,
    _where,
    _braces,
    _subscript,
    _digits,
    _first,
    _option,
    _second,
    _keyword_bound,
    _never_closed,
    _empty,
    _chain,
    _conditional,
    _bar,
    _equal,
    _binder,
    _role,
    _state,
    _param,
    _wrong_bracket,
    _list,
    _keyword,
    _negation,
    _missing_value,
    _bracketless,
    _missing_operator,
    _missing_word,
)


# --- keywords ------------------------------------------------------------------------------------


def _is_keyword(token: Token) -> bool:
    return token.type not in _NAMES and token.isascii() and token.isalpha()


def _spelling(terminal: str) -> str:
    """How a terminal of the grammar is written, for a message."""
    pattern = grammar().get_terminal(terminal).pattern
    assert isinstance(pattern, PatternStr)
    return f"`{pattern.value}`"


def _expected(m: _Mistake) -> str:
    """What could stand where the mistake is, in words: `` `in` or the end of the line ``."""
    words = []
    if m.wants_value:
        words.append("a value")
    elif m.accepts >= _NAMES:
        words.append("a name")
    elif "NUMBER" in m.accepts:
        words.append("a number")
    if m.wants_operator:
        words.append("an operator")
    spelled = _CLOSING | {"LSQB", "LBRACE", "COMMA", "VBAR", "COLON", "EQUAL", "IN", "FROM"}
    if not m.accepts >= _NAMES:
        spelled |= {"AS", "BY", "BEFORE"}
    words += sorted(_spelling(terminal) for terminal in m.accepts & spelled)
    if _END in m.accepts:
        words.append("the end of the line")
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
