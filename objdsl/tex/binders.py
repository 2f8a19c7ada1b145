"""The scripts of a sum: the running letter, its index, and its range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lark import Token, Tree

from objdsl.frozen import dataclass
from objdsl.tex.factors import script
from objdsl.tex.names import INDICES, RELATIONS
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
        index = "i" if relation == "!=" else "t"
        return Binder((index,), (letter,), relation, mask)
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


def condition_of(reading: Reading, run: Sequence[Binder]) -> str:
    """The first condition of some sums, `` | M``; empty if there is none."""
    first = run[0]
    if not first.mask or (reading.kept and "p" in first.over):
        return ""
    with inside(reading, run):
        return f" | {reading.value(first.mask).text}"


def _usual_index(letter: str) -> str:
    return INDICES.get(letter[0], "i")
