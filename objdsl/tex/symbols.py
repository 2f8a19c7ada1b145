"""Symbols: defined by an equation, a usual letter of papers, or a column of the data."""

from __future__ import annotations

from dataclasses import replace

from lark import Token, Tree

from objdsl.ir.columns import CLOCK
from objdsl.ir.ops import TIMES
from objdsl.spelling import identifier
from objdsl.tex.factors import first_script, is_argument, script, side_of
from objdsl.tex.names import INDICES, PARAMS, accented, parts_of, word
from objdsl.tex.parse import leaves
from objdsl.tex.pieces import Piece, applied, count_of, raised, resolved
from objdsl.tex.reading import Reading


def symbol(reading: Reading, factor: Tree[Token], base: Token, group: Tree[Token] | None) -> Piece:
    """The value of a symbol."""
    sub, sup = parts_of(script(factor, "SUB")), script(factor, "SUP")
    powers: list[Token] = []
    suffix: tuple[str, ...] = ()
    pair = side_of(sub, [str(t) for t in sup])
    if group is not None and is_argument(group):
        argument = leaves(group)[1:-1]
        for k, token in enumerate(argument):
            if token.type == "SUB":
                parts = parts_of(first_script(argument[k:], "SUB"))
                indices = tuple(x for x in parts.indices if x not in (*sub.indices, "w", "l"))
                sub = replace(sub, indices=(*sub.indices, *indices), shift=sub.shift or parts.shift)
    reading.check(sub, leaves(factor))
    if sup:
        parts = parts_of(sup)
        inside = [t for t in sup if t.type not in ("LPAR", "RPAR")]
        capitals = "".join(str(t) for t in sup)
        is_word = len(capitals) > 1 and capitals.isalpha() and capitals.isupper()
        if is_word:
            suffix = (capitals,)
        elif any(t.type in ("WORD", "CALLIGRAPHIC") for t in sup) or len(inside) < len(sup):
            suffix = tuple(x for x in parts.words if x.lower() not in ("gae", "pi"))
            sub = replace(sub, indices=(*sub.indices, *parts.indices))
        elif not pair and str(sup[0]) not in ("pi", "*", "star"):
            powers = sup
    head = word(base)
    accent = leaves(factor)[0]
    if accent.type == "ACCENT":
        suffix = (*suffix, *accented(str(accent), head))
    classes = {reading.index_of(letter) for letter in sub.indices}
    depth = 3 if "t" in classes else 2 if "i" in classes else 1 if "p" in classes else 0
    piece = _value(reading, head, (*sub.words, *suffix), depth, factor, group)
    if sub.shift == 1:
        piece = applied("next", piece)
    elif sub.shift:
        raise reading.fail("only the next token is read, `t+1`", factor)
    if pair:
        piece = replace(piece, at=pair)
    return raised(piece, reading.value(powers)) if powers else piece


def _value(reading: Reading, head: str, words: tuple[str, ...], depth: int, factor: Tree[Token],
    group: Tree[Token] | None,
) -> Piece:  # fmt: skip
    if reading.response == "*":  # the first of a set stands for each
        depth = max(depth, 2 if any(x.isdigit() for x in words) else 0)
        words = tuple(x for x in words if not x.isdigit())
    words = tuple(x for x in words if x not in ("theta", "w", "l", "chosen", "rejected"))
    name = identifier(head, *words)
    if head == (reading.token or "t") and not words and head not in reading.definitions:
        return Piece(reading.position, depth=3)
    rewarded = depth == 3 and name in ("r", "R") and not _is_of_theta(group)
    if rewarded and (name == "R" or _is_of_weights(reading, name)) and name not in reading.declared:
        reading.guess("the reward of a token is that of the response, with its last token")
        return Piece("(t == |y|) * reward", TIMES, 3)
    if name in reading.definitions:
        return Piece(name, depth=define(reading, name))
    if name in reading.declared:
        return Piece(name, depth=reading.declared[name])
    if name == "token":
        return Piece(name, depth=3)
    if name in CLOCK and depth == 0:
        return Piece(name)
    if not words and head in reading.sizes and depth == 0:
        return count_of(reading.sizes[head])
    if name == "T" and depth == 0:
        reading.guess("`T` is the length of the response")
        return Piece("|y|", depth=2, counted=(("t",),))
    if name in ("reward", "R", "rewards") or (
        head in ("r", "R") and not words and depth != 3 and not _is_of_theta(group)
    ):
        return Piece("reward", depth=2)
    if name == "V" and "V" not in reading.declared:
        reading.guess("the critic in an advantage is `V_old`, that of the rollout")
        return Piece("V_old", depth=3)
    if name in ("V", "V_old", "truncated"):
        return Piece(name, depth=2 if name == "truncated" else 3)
    if name in PARAMS or (depth == 0 and head not in ("A", "r", "w", "s")):
        default = PARAMS.get(name, "1")
        reading.params.setdefault(name, default)
        return Piece(name)
    return _unknown(reading, name, head, depth)


def _is_of_weights(reading: Reading, name: str) -> bool:
    """Whether an equation defines a symbol as a function of the weights: `r_t(\\theta)`."""
    equation = reading.definitions.get(name)
    return equation is not None and any(str(t) == "theta" for t in equation.left)


def _unknown(reading: Reading, name: str, head: str, depth: int) -> Piece:
    """A symbol that no equation defines: its usual meaning in papers, or a column of the data."""
    if name in reading.lets:
        return Piece(name, depth=reading.lets[name][0].depth)
    if head == "A":
        value = Piece("(reward - mean[i] reward) / (std[i] reward + 1e-6)", depth=2)
        reading.lets[name] = value, "guessed: no equation defines it"
        return Piece(name, depth=2)
    if head in ("r", "rho", "w", "ratio") and depth in (0, 3):
        reading.lets[name] = Piece("pi / old", depth=3), "guessed: no equation defines it"
        return Piece(name, depth=3)
    if head == "s" and depth == 2:
        reading.lets[name] = Piece("geo(pi / old)", depth=2), "guessed: no equation defines it"
        return Piece(name, depth=2)
    indices = "p,i,t,v".split(",")[:depth]
    reading.givens.setdefault(name, f"[{','.join(indices)}]")
    return Piece(name, depth=depth)


def define(reading: Reading, name: str) -> int:
    """Reads the equation of a name, unless it has been read; returns the depth of its value."""
    if name in reading.lets:
        return reading.lets[name][0].depth
    equation = reading.definitions[name]
    if name in reading.open:
        raise reading.fail(f"`{name}` is defined by itself", equation.left)
    before = reading.response, reading.token, reading.bound, reading.guesses
    parts = parts_of(first_script(list(equation.left), "SUB"))
    reading.response = reading.token = ""
    reading.bound, reading.guesses = (), []
    for letter in parts.indices:
        kind = INDICES.get(letter.rstrip("'"), "")
        reading.response = letter if kind == "i" else reading.response
        reading.token = letter if kind == "t" else reading.token
    reading.open.append(name)
    try:
        piece = resolved(reading.value(equation.right))
        reading.note_again(equation)
        guessed = "; ".join(reading.guesses)
    finally:
        reading.open.pop()
        reading.response, reading.token, reading.bound, reading.guesses = before
    reading.lets[name] = piece, f"guessed: {guessed}" if guessed else ""
    return piece.depth


def _is_of_theta(group: Tree[Token] | None) -> bool:
    """Whether a symbol has the weights for its argument: `r(\\theta)`."""
    return group is not None and [str(t) for t in leaves(group)[1:-1]] == ["theta"]
