"""The scripts of a sum: the running letter, its index, and its range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lark import Token, Tree

from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.ir.ops import AND
from objdsl.tex.factors import script
from objdsl.tex.lexer import CLOSING, OPENING
from objdsl.tex.names import INDICES, RELATIONS
from objdsl.tex.pieces import Piece
from objdsl.tex.reading import Reading


@dataclass(frozen=True)
class Binder:
    """The subscript of a sum: `i=1`, `j \\ne i`, `s \\ge t`.

    Attributes:
        over: the indices that it runs along.
        letters: the letters of its elements.
        relation: that of its element to the present one.
        mask: the condition after the colon.
        running: whether its letter is a distance from the present token, `l` of `t+l`.
    """

    over: tuple[str, ...]
    letters: tuple[str, ...]
    relation: str = ""
    mask: tuple[Token, ...] = ()
    running: bool = False


def binder_of(reading: Reading, factor: Tree[Token]) -> Binder:
    """The meaning of a sum's scripts."""
    sub, sup = script(factor, "SUB"), script(factor, "SUP")
    colon = next((k for k, token in enumerate(sub) if token.type in ("COLON", "MID")), len(sub))
    mask = tuple(sub[colon + 1 :])
    sub = [token for token in sub[:colon] if token.type not in ("LPAR", "RPAR", "LBRACE", "RBRACE")]
    if not sub:
        raise reading.fail("a sum names its index", factor)
    kinds = [token.type for token in sub]
    primed = kinds[1:2] == ["PRIME"]
    letter = str(sub[0]) + ("'" if primed else "")
    rest = sub[2:] if primed else sub[1:]
    if kinds[0] not in ("LETTER", "GREEK", "WORD"):
        raise reading.fail("a sum names its index", factor)
    if rest and rest[0].type == "COMMA":
        letters = [str(token) for token in sub if token.type == "LETTER"]
        indices = tuple(index for index in "pitv" if index in map(_usual_index, letters))
        return Binder(indices, tuple(letters), mask=mask)
    if rest and rest[0].type == "RELATION" and str(rest[0]) in RELATIONS:
        relation = RELATIONS[str(rest[0])]
        if relation != "!=":
            return Binder(("t",), (letter,), relation, mask)
        more = [str(token) for token in rest[2:] if token.type == "LETTER"]
        over = ("i", *(_usual_index(other) for other in more))
        return Binder(over, (letter, *more), relation, mask)
    many = [str(token) for token in sup]
    if rest[:1] and rest[0].type == "EQUAL" and len(rest) > 1:
        start = str(rest[1])
        if start == (reading.token or "t") and letter != start:
            return Binder(("t",), (letter,), ">=" if len(rest) == 2 else ">", mask)
        ends = [x for x in many if x in (reading.token or "t")]
        if ends and "|" not in many and letter[0] in "tsuhkl" and many[0] == (reading.token or "t"):
            return Binder(("t",), (letter,), "<=" if len(many) == 1 else "<", mask)
        if start == "0" and letter in "lk" and ("infty" in many or "-" in many):
            return Binder(("t",), (letter,), ">=", mask, running=True)
    return Binder((_running_index(reading, letter, sup, rest),), (letter,), mask=mask)


def _running_index(
    reading: Reading, letter: str, sup: Sequence[Token], rest: Sequence[Token]
) -> str:
    """The index of a letter that runs up to `sup`, or through the set `rest`."""
    kinds, texts = [token.type for token in sup], [str(token) for token in sup]
    if "LBAR" in kinds or texts[:1] in (["T"], ["L"], ["H"], ["n"]):
        return "t"
    if texts[:1] and texts[0] in reading.sizes and reading.sizes[texts[0]] in (("i",), ("p",)):
        return reading.sizes[texts[0]][-1]
    if texts[:1] in (["N"], ["M"], ["G"], ["K"]) or "SIZE" in kinds:
        return "i"
    if any(str(token) == "V" for token in rest):
        return "v"
    return _usual_index(letter)


@contextmanager
def inside(reading: Reading, run: Sequence[Binder]) -> Iterator[None]:
    """The body of a sum, in which letters denote its elements."""
    before = reading.response, reading.token, reading.bound
    for binder in run:
        reading.bound = (*reading.bound, *binder.over)
        for letter in binder.letters:
            index = binder.over[0] if len(binder.over) == 1 else _usual_index(letter)
            if index == "i":
                reading.response = letter
            if index == "t":
                reading.token = letter
    try:
        yield
    finally:
        reading.response, reading.token, reading.bound = before


@dataclass(frozen=True)
class Condition:
    """What stands behind the colon of a sum.

    Attributes:
        keys: what its elements share with the present one, as in `k_j = k_i`.
        mask: which of them count; empty for all.
        depth: how many indices the keys carry.
    """

    keys: tuple[str, ...] = ()
    mask: str = ""
    depth: int = 0

    def __str__(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return by + (f" | {self.mask}" if self.mask else "")

    def __bool__(self) -> bool:
        return bool(self.keys or self.mask)


def condition_of(reading: Reading, run: Sequence[Binder]) -> Condition:
    """The first condition of some sums."""
    first = run[0]
    if not first.mask or (reading.kept and "p" in first.over):
        return Condition()
    keys: list[Piece] = []
    masks: list[Piece] = []
    for part in _split(first.mask, "COMMA"):
        key = _key(reading, run, _split(part, "EQUAL"))
        if key is not None:
            keys.append(key)
            continue
        with inside(reading, run):
            masks.append(reading.value(part))
    mask = masks[0].text if masks else ""
    if len(masks) > 1:
        mask = " and ".join(part.held(AND) for part in masks)
    depth = max((key.depth for key in keys), default=0)
    return Condition(tuple(key.text for key in keys), mask, depth)


def _key(reading: Reading, run: Sequence[Binder], sides: Sequence[Sequence[Token]]) -> Piece | None:
    """The key of `k_j = k_i`, a value that the running element shares with the present one; None
    for any other condition."""
    if len(sides) != 2:
        return None
    try:
        present = reading.value(sides[1])
        with inside(reading, run):
            running = reading.value(sides[0])
    except ObjectiveError:
        return None
    return running if running.text == present.text and running.depth else None


def _split(tokens: Sequence[Token], kind: str) -> list[Sequence[Token]]:
    """The parts between the tokens of a kind that no bracket encloses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.type in OPENING) - (token.type in CLOSING)
        if token.type == kind and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _usual_index(letter: str) -> str:
    return INDICES.get(letter[0], "i")
