"""LaTeX to tokens: what the mathematics is made of, without what only lays it out."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from lark import Token
from lark.lexer import Lexer

from objdsl.codes import error
from objdsl.errors import ObjectiveError
from objdsl.source import Source, Span

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta",
    "kappa", "lambda", "mu", "nu", "xi", "pi", "rho", "varrho", "sigma", "tau", "phi", "varphi",
    "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Phi", "Psi", "Omega",
    "ell", "bot", "top", "star", "dagger", "emptyset",
}  # fmt: skip
_LETTERS = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon",
            "ϵ": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho",
            "σ": "sigma", "τ": "tau", "φ": "phi", "ψ": "psi", "ω": "omega"}  # fmt: skip
_STYLES = {
    **dict.fromkeys(
        "mathrm text textrm textit textbf textsf texttt mathsf mathtt mathit operatorname mbox "
        "mathop textup textsc textnormal".split(), "WORD",
    ),
    **dict.fromkeys("mathbb mathbbm mathds".split(), "BLACKBOARD"),
    **dict.fromkeys("mathcal mathscr mathfrak".split(), "CALLIGRAPHIC"),
}  # fmt: skip
_KINDS = {
    **dict.fromkeys(GREEK, "GREEK"),
    **dict.fromkeys("hat widehat tilde widetilde bar overline dot vec check".split(), "ACCENT"),
    **dict.fromkeys("frac dfrac tfrac cfrac nicefrac".split(), "FRAC"),
    **dict.fromkeys("binom dbinom tbinom".split(), "BINOM"),
    **dict.fromkeys("sum prod".split(), "BIG"),
    **dict.fromkeys("log ln exp min max sup inf".split(), "FUNCTION"),
    **dict.fromkeys("underbrace overbrace".split(), "OVER"),
    **dict.fromkeys("cdot times ast".split(), "TIMES"),
    **dict.fromkeys("div".split(), "SLASH"),
    **dict.fromkeys("coloneqq triangleq equiv doteq".split(), "EQUAL"),
    **dict.fromkeys("leftarrow gets approx".split(), "UPDATE"),
    **dict.fromkeys(
        "le leq leqslant ge geq geqslant ne neq lt gt ll gg sim in to rightarrow propto "
        "notin subset subseteq".split(), "RELATION",
    ),
    **dict.fromkeys("wedge land".split(), "AND"),
    **dict.fromkeys("vee lor".split(), "OR"),
    **dict.fromkeys("neg lnot".split(), "NOT"),
    **dict.fromkeys("ldots cdots dots dotsc vdots".split(), "DOTS"),
    **dict.fromkeys("lvert lVert".split(), "LBAR"),
    **dict.fromkeys("rvert rVert".split(), "RBAR"),
    **dict.fromkeys("parallel Vert |".split(), "PARALLEL"),
    "sqrt": "SQRT", "mid": "MID", "given": "MID", "nabla": "NABLA", "infty": "INFINITY",
    "lbrace": "LBRACE", "rbrace": "RBRACE", "{": "LBRACE", "}": "RBRACE", "lbrack": "LSQ",
    "rbrack": "RSQ", "prime": "PRIME", "#": "SIZE", "\\": "NEWLINE", "cr": "NEWLINE",
    "newline": "NEWLINE", "quad": "GAP", "qquad": "GAP",
    "lfloor": "LFLOOR", "rfloor": "RFLOOR",
}  # fmt: skip
_SIGNS = {
    "+": "PLUS", "-": "MINUS", "−": "MINUS", "*": "TIMES", "/": "SLASH", "=": "EQUAL",
    "<": "RELATION", ">": "RELATION", "≤": "RELATION", "≥": "RELATION", "_": "SUB", "^": "SUP",
    "'": "PRIME", "{": "OPEN", "}": "CLOSE", "(": "LPAR", ")": "RPAR", "[": "LSQ", "]": "RSQ",
    ",": "COMMA", ";": "SEMICOLON", ":": "COLON", "|": "BAR", "&": "AMPERSAND", "‖": "PARALLEL",
    "∥": "PARALLEL", "·": "TIMES", "∑": "BIG", "∏": "BIG", "∞": "INFINITY", "∈": "RELATION",
}  # fmt: skip
_SKIPPED = set(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm middle "
    "displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits nonumber notag "
    "allowbreak , ; : ! > thinspace medspace enspace hfill noindent boldmath centering "
    "tiny scriptsize footnotesize small normalsize large Large protect mathopen mathclose mathbin "
    "mathrel mathord mathpunct ensuremath boxed mathbf boldsymbol bm pmb rm bf it cal substack "
    "arg smash vphantom relax par item".split()
) | {" ", "\n", "/"}  # fmt: skip
_WITH_TEXT = set(
    "label tag hspace vspace phantom hphantom color ref eqref cite citep citet footnote hskip kern "
    "textcolor fcolorbox colorbox intertext shortintertext mskip mkern".split()
)
_SIDES = {
    **dict.fromkeys("left bigl Bigl biggl Biggl".split(), "LBAR"),
    **dict.fromkeys("right bigr Bigr biggr Biggr".split(), "RBAR"),
}
_OPENERS = {
    "LPAR",
    "LSQ",
    "LBRACE",
    "OPEN",
    "LBAR",
    "LFLOOR",
    "COMMA",
    "MID",
    "PARALLEL",
    "SEMICOLON",
}
OPENING = frozenset({"LPAR", "LSQ", "LBRACE", "OPEN", "LBAR", "LFLOOR", "BEGIN_CASES"})
CLOSING = frozenset({"RPAR", "RSQ", "RBRACE", "CLOSE", "RBAR", "RFLOOR", "END_CASES"})
_SEPARATORS = {"COMMA", "SEMICOLON", "NEWLINE"}
_ENDS = {
    "NUMBER", "LETTER", "GREEK", "WORD", "BLACKBOARD", "CALLIGRAPHIC", "INFINITY", "DOTS", "CLOSE",
    "RPAR", "RSQ", "RBRACE", "RBAR", "RFLOOR", "PRIME", "SIZE",
}  # fmt: skip
_PIECE = re.compile(
    r"(?P<skip>\s+|~|\$+|\\[()\[\]])|(?P<number>\d+(?:\.\d+)?(?:,\d{3})*|\.\d+)"
    r"|\\(?P<command>[A-Za-z]+\*?|.|\n)|(?P<letter>[A-Za-zα-ωϵ])|(?P<sign>[^\w\s]|_)",
    re.DOTALL,
)
# A bar, a short name, a bar: a length, whatever precedes it.
_LENGTH = re.compile(
    r"\|\s*(?:\\(?:mathbf|boldsymbol|bm|mathcal)\s*)?\{?\s*[A-Za-z]\s*\}?"
    r"(?:_(?:\{[^{}|]*\}|\s*[A-Za-z0-9+]))?\s*(?:\\right|\\bigr?|\\Bigr?)?\s*\|"
)


class Given(Lexer):
    """Hands tokens on that were made before."""

    def __init__(self, _: Any) -> None:
        pass

    def lex(self, data: Any) -> Iterator[Token]:  # type: ignore[override]
        yield from data


def tokens_of(source: Source, start: int, end: int) -> list[Token]:
    """The tokens of a piece of LaTeX; where each stands is counted in the whole text.

    Raises:
        ObjectiveError: a character or an environment is none of mathematics.
    """
    return _barred(source, _cases(list(_raw(source, start, end)), source))


def unreadable(message: str, span: Span, help: str = "") -> ObjectiveError:
    return ObjectiveError([error("unreadable-tex", message, span, help=help)])


def _token(kind: str, value: str, start: int, end: int) -> Token:
    return Token(kind, value, start_pos=start, end_pos=end)


def _raw(source: Source, at: int, end: int) -> Iterator[Token]:
    text = source.text
    evaluated = False
    while at < end:
        piece = _PIECE.match(text, at, end)
        if piece is None:
            span = Span(source, at, at + 1)
            raise unreadable(f"`{text[at]}` is not read here", span)
        start, at = at, piece.end()
        match piece.lastgroup:
            case "number":
                yield _token("NUMBER", piece[0].replace(",", ""), start, at)
            case "letter":
                greek = _LETTERS.get(piece[0])
                yield _token("GREEK" if greek else "LETTER", greek or piece[0], start, at)
            case "sign":
                sign = piece[0]
                if sign == "|" and text.startswith("|", at):
                    at += 1
                    yield _token("PARALLEL", "||", start, at)
                elif sign == "|" and evaluated and re.match(r"\s*_", text[at:end]):
                    yield _token("EVAL", "|", start, at)
                elif sign == ":" and re.match(r"\s*=", text[at:end]):
                    at = text.index("=", at) + 1
                    yield _token("EQUAL", ":=", start, at)
                elif sign in ".!?":
                    pass  # the end of a sentence
                elif sign in _SIGNS:
                    yield _token(_SIGNS[sign], sign, start, at)
                else:
                    raise unreadable(f"`{sign}` is not read here", Span(source, start, at))
            case "command":
                word = piece["command"].rstrip("*") or "*"
                evaluated = word.lower().startswith("big") or word == "right"
                if word in ("left", "right", "bigl", "bigr") and text.startswith(".", at):
                    at += 1
                elif word in _SIDES and re.match(r"\|(?!\||\s*_)", text[at:end]):
                    at += 1
                    yield _token(_SIDES[word], "|", start, at)
                elif word in ("begin", "end"):
                    name = re.compile(r"\s*\{([a-z]+)\*?\}(?:\{[^{}]*\}|\[[^\[\]]*\])?").match(
                        text, at
                    )
                    if name is None:
                        raise unreadable("an environment has a name", Span(source, start, at))
                    at = name.end()
                    if name[1] in ("cases", "dcases", "rcases"):
                        yield _token(f"{word.upper()}_CASES", name[0], start, at)
                elif word in _STYLES:
                    at = yield from _styled(source, word, start, at)
                elif word in _WITH_TEXT:
                    at = _closed(text, at)
                elif word in _SKIPPED:
                    pass
                elif word in ("KL", "E"):
                    yield _token("WORD" if word == "KL" else "BLACKBOARD", word, start, at)
                elif word in ("sigmoid", "softmax", "clip", "sg", "mean", "std", "sign", "sgn"):
                    yield _token("WORD", word, start, at)
                elif word in _KINDS:
                    yield _token(_KINDS[word], word, start, at)
                else:
                    span = Span(source, start, at)
                    raise unreadable(
                        f"`\\{word}` is not read", span,
                        help="write what it stands for: macros of a paper are not expanded",
                    )  # fmt: skip
                continue
        evaluated = False


def _styled(source: Source, word: str, start: int, at: int) -> Generator[Token, None, int]:
    """`\\mathrm{old}` as one word; of mathematics in a style, the mathematics."""
    text = source.text
    kind = _STYLES[word]
    content = re.compile(r"\s*\{([^{}]*)\}|\s*(\w)").match(text, at)
    if content is None:  # nested braces: what is inside is read as it is
        return at
    inside = (content[1] if content[1] is not None else content[2]).strip()
    plain = inside.replace("\\_", "_").replace("\\ ", " ").replace("\\-", "").replace("\\,", "")
    if "\\" in plain or "^" in plain:
        return at
    if kind == "WORD" and not inside:
        return content.end()
    keyword = plain.lower().rstrip(".,: ").strip()
    connected = {"and": "AND", "or": "OR", "not": "NOT"}.get(keyword)
    if keyword in ("otherwise", "else", "o.w"):
        connected = "OTHERWISE"
    if keyword in ("if", "where", "with", "for", "when", ""):
        yield _token("TEXT", keyword, start, content.end())
        return content.end()
    yield _token(connected or kind, plain, start, content.end())
    return content.end()


def _closed(text: str, at: int) -> int:
    """The end of an argument that says nothing."""
    argument = re.compile(r"\s*(?:\[[^\]]*\])?\{[^{}]*\}").match(text, at)
    return argument.end() if argument else at


def _cases(tokens: list[Token], source: Source) -> list[Token]:
    """Where columns and rows are those of cases; elsewhere `&` aligns, and `\\\\` ends a line."""
    depth = 0
    kept = []
    for k, token in enumerate(tokens):
        depth += (token.type == "BEGIN_CASES") - (token.type == "END_CASES")
        if token.type == "AMPERSAND":
            if depth:
                kept.append(_token("AND_CASE", "&", token.start_pos or 0, token.end_pos or 0))
        elif token.type == "COMMA" and depth and _next_is_column(tokens[k + 1 :]):
            pass
        elif token.type != "TEXT" or not depth:
            kept.append(token)
    return kept


def _next_is_column(after: Sequence[Token]) -> bool:
    return bool(after) and after[0].type in ("AMPERSAND", "NEWLINE", "END_CASES")


def _barred(source: Source, tokens: list[Token]) -> list[Token]:
    """Which bar opens, which closes, and which stands between what is asked and what is given.

    A gap between formulas separates them as a line does; elsewhere it is layout.
    """
    opened: list[str] = []
    barred: list[Token] = []
    for k, token in enumerate(tokens):
        kind, start, end = token.type, token.start_pos or 0, token.end_pos or 0
        before = barred[-1].type if barred else "OPEN"
        if kind == "BAR":
            if opened and opened[-1] == "LBAR":
                kind = "RBAR"
            elif _LENGTH.match(source.text, start) or before not in _ENDS:
                kind = "LBAR"
            else:
                kind = "MID"
        if kind == "GAP":
            kind = "TEXT" if opened or before in _SEPARATORS else "NEWLINE"
        after = tokens[k + 1].type if k + 1 < len(tokens) else ""
        alone = before in _OPENERS or after in ("BAR", "MID", "RPAR")
        if kind == "TIMES" and token == "cdot" and alone:
            kind = "DOTS"
        if kind in OPENING:
            opened.append(kind)
        elif kind in CLOSING and opened:
            opened.pop()
        if kind != "TEXT":
            barred.append(_token(kind, str(token), start, end))
    return barred
