"""Pieces of text in the language, and how they are combined."""

from __future__ import annotations

from dataclasses import replace

from objdsl.frozen import dataclass
from objdsl.ir.ops import APPLY, ATOM, PLUS, POWER, SIGN, TIMES

Sizes = tuple[tuple[str, ...], ...]
_COUNTS = {("i",): "count[i]", ("p", "i"): "count[p,i]", ("p",): "count[p]", ("t",): "|y|",
           ("p", "i", "t"): "count[p,i,t]", ("i", "t"): "count[i,t]"}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A value of the language.

    Attributes:
        text: how it is written.
        level: the precedence of the outermost operator of the text.
        depth: how many of the indices p, i, t, v it carries.
        at: `chosen` or `rejected`, for what is that of one response of a pair.
        product: X, where it is the product of X over the tokens of a response.
        above, sizes: of a quotient, what is divided, and by how many of what.
        counted: of what it is the number, where it is a product of such numbers.
        open: whether its text ends in a reduction, which would reach over what is put behind it.
        mask: whether it is a condition.
        logistic: x, where it is `sigmoid(x)`.
        logs: of a product of probabilities of two responses, each with its sign in the logarithm.
        minus: x, where it is `-x`.
    """

    text: str
    level: int = ATOM
    depth: int = 0
    at: str = ""
    product: str = ""
    above: str = ""
    sizes: Sizes = ()
    counted: Sizes = ()
    open: bool = False
    mask: bool = False
    logistic: str = ""
    logs: tuple[tuple[str, str, int], ...] = ()
    minus: Piece | None = None

    def held(self, level: int, last: bool = True) -> str:
        """Its text, in brackets if its precedence is too low."""
        loose = self.level < level or (not last and (self.open or self.level == APPLY))
        return f"({self.text})" if loose else self.text


def number(text: str) -> Piece:
    return Piece(text)


def reduced(op: str, binder: str, body: Piece, depth: int) -> Piece:
    """`mean[t] x`."""
    return Piece(f"{op}[{binder}] {body.held(APPLY)}", APPLY, depth, body.at, open=True)


def resolved(x: Piece) -> Piece:
    """The value of one response of a pair, as a mean over the responses that selects it."""
    if not x.at:
        return x
    condition = "chosen" if x.at == "chosen" else "not chosen"
    return Piece(f"mean[i | {condition}] {x.held(APPLY)}", APPLY, min(x.depth, 1), open=True)


def paired(a: Piece, b: Piece) -> tuple[Piece, Piece]:
    """Two operands; if they belong to different responses of a pair, each is resolved first."""
    if a.at == b.at or (not a.at and a.depth < 2) or (not b.at and b.depth < 2):
        return a, b
    return resolved(a), resolved(b)


def infix(a: Piece, sign: str, b: Piece, level: int) -> Piece:
    a, b = paired(a, b)
    tight = level + (sign in ("-", "/") or level < PLUS)
    left = a.held(level, last=level < TIMES)
    right = b.held(SIGN if sign == "/" else tight)
    if level == TIMES and sign == "*" and b.above:
        right = b.held(SIGN)
    if level == TIMES and sign == "/":
        right = b.held(POWER, last=False) if b.level != APPLY else b.held(POWER)
    return Piece(
        f"{left} {sign} {right}", level, max(a.depth, b.depth), a.at or b.at,
        open=b.open or b.level == APPLY,
    )  # fmt: skip


def logs_of(x: Piece) -> tuple[tuple[str, str, int], ...]:
    return ((x.at, x.product, 1),) if x.product else x.logs


def times(a: Piece, b: Piece) -> Piece:
    if a.text == "1":
        return b
    if (first := logs_of(a)) and (second := logs_of(b)):
        return replace(infix(a, "*", b, TIMES), logs=(*first, *second), at="", depth=1)
    product = infix(a, "*", b, TIMES)
    counted = a.counted + b.counted if a.counted and b.counted else ()
    return replace(product, counted=counted, sizes=())


def over(a: Piece, b: Piece) -> Piece:
    """A quotient; for two probabilities of responses, the product of their tokens' ratios."""
    if a.product and b.product and a.at == b.at:
        ratio = f"{a.product} / {b.product}"
        return Piece(f"prod[t] ({ratio})", APPLY, 2, a.at, product=ratio, open=True)
    quotient = replace(infix(a, "/", b, TIMES), above=a.text, sizes=b.counted)
    if (first := logs_of(a)) and (second := logs_of(b)):
        flipped = tuple((at, text, -sign) for at, text, sign in second)
        return replace(quotient, logs=(*first, *flipped), at="", depth=1)
    return quotient


def raised(a: Piece, b: Piece) -> Piece:
    text = f"{a.held(ATOM)}^{b.held(POWER) if b.level >= POWER and not b.open else f'({b.text})'}"
    return Piece(text, POWER, max(a.depth, b.depth), a.at or b.at)


def logarithm(x: Piece) -> Piece:
    if x.logistic:
        return Piece(f"logsigmoid({x.logistic})", ATOM, x.depth, x.at)
    if x.product:
        return Piece(f"sum[t] log({x.product})", APPLY, x.depth, x.at, open=True)
    if x.logs:
        total: Piece | None = None
        for at, text, sign in sorted(x.logs, key=lambda log: -log[2]):
            piece = resolved(Piece(f"sum[t] log({text})", APPLY, 2, at, open=True))
            first = piece if sign > 0 else negated(piece)
            total = infix(total, "+-"[sign < 0], piece, PLUS) if total else first
        assert total is not None
        return total
    return Piece(f"log({x.text})", ATOM, x.depth, x.at)


def applied(function: str, *operands: Piece) -> Piece:
    texts = ", ".join(x.text for x in operands)
    at = next((x.at for x in operands if x.at), "")
    return Piece(f"{function}({texts})", ATOM, max(x.depth for x in operands), at)


def compared(a: Piece, sign: str, b: Piece, level: int) -> Piece:
    piece = infix(a, sign, b, level)
    return replace(piece, mask=True, open=False)


def negated(x: Piece) -> Piece:
    text = x.held(APPLY, last=x.level == APPLY)
    return Piece(f"-{text}", SIGN, x.depth, x.at, open=x.open, minus=x)


def enclosed(x: Piece) -> Piece:
    """In brackets, unless that is not necessary; a condition stays a condition."""
    if x.level == ATOM or x.sizes or x.counted:
        return x
    return replace(x, text=f"({x.text})", level=ATOM, open=False)


def count_of(size: tuple[str, ...]) -> Piece:
    """The number of elements along some indices."""
    return Piece(_COUNTS[size], depth="pitv".index(size[0]), counted=(size,))
