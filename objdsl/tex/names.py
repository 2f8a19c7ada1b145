"""The names of the language for the symbols of papers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lark import Token

from objdsl.frozen import dataclass

GREEK = {"epsilon": "eps", "varepsilon": "eps", "lambda": "lam", "varphi": "phi", "varrho": "rho",
         "vartheta": "theta", "ell": "l"}  # fmt: skip
INDICES = {
    **dict.fromkeys("ijkmn", "i"), **dict.fromkeys("tsuhl", "t"), "v": "v", "a": "v",
    **dict.fromkeys("xqp", "p"),
}  # fmt: skip
"""The index of the language for a letter, unless the formula says otherwise."""

SIZES = {"G": ("i",), "N": ("p", "i"), "K": ("i",), "P": ("p",), "B": ("p",)}
"""Letters for numbers of elements, if no equation defines them."""

POLICIES = {
    "old": "old", "theta_old": "old", "ref": "ref", "reference": "ref", "base": "ref",
    "init": "ref", "sft": "ref", "theta_ref": "ref", "theta_0": "ref", "0": "ref",
    "rollout": "mu", "vllm": "mu", "sampler": "mu", "infer": "mu", "inference": "mu", "gen": "mu",
    "behave": "mu",
    "behavior": "mu", "behaviour": "mu", "b": "mu", "sglang": "mu", "theta_rollout": "mu",
    "prox": "old", "theta": "pi", "": "pi", "train": "pi", "theta_train": "pi", "t": "ref",
}  # fmt: skip

RELATIONS = {"<": "<", ">": ">", "lt": "<", "gt": ">", "le": "<=", "leq": "<=", "leqslant": "<=",
             "ge": ">=", "geq": ">=", "geqslant": ">=", "ne": "!=", "neq": "!=", "≤": "<=",
             "≥": ">="}  # fmt: skip
"""Comparisons, by their names in LaTeX."""

PARAMS = {
    "eps": "0.2 in (0, 1)", "eps_low": "0.2 in (0, 1)", "eps_high": "0.28 in (0, inf)",
    "eps_l": "0.2 in (0, 1)", "eps_h": "0.28 in (0, inf)", "beta": "0.04 in [0, inf)",
    "gamma": "1 in [0, 1]", "lam": "0.95 in [0, 1]", "tau": "1 in (0, inf)",
    "delta": "0.1 in (0, inf)", "alpha": "0.1 in [0, inf)", "L": "4096 in (0, inf)",
    "L_max": "4096 in (0, inf)", "c": "0.01 in [0, inf)", "eta": "0.01 in [0, inf)",
}  # fmt: skip
"""Values for hyper-parameters, which a formula names without a value."""


@dataclass(frozen=True)
class Parts:
    """The subscripts or superscripts of a symbol.

    Attributes:
        words: the parts of its name.
        indices: the letters of indices, `t` of `A_{i,t}`.
        shift: the number that is added to the token's index, 1 of `V_{t+1}`.
        running: the letter that is added to it, `l` of `\\delta_{t+l}`.
    """

    words: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    shift: int = 0
    running: str = ""


def parts_of(tokens: Sequence[Token]) -> Parts:
    """The meaning of scripts."""
    words: list[str] = []
    indices: list[str] = []
    shift, running = 0, ""
    for part in _between_commas(tokens):
        kinds = [token.type for token in part]
        texts = [str(token) for token in part]
        if kinds[:1] == ["RELATION"]:
            continue  # `<t`
        if kinds == ["LETTER", "PRIME"]:
            indices.append("".join(texts))
            continue
        if kinds[:1] == ["LETTER"] and kinds[1:2] in (["PLUS"], ["MINUS"]):
            indices.append(texts[0])
            sign = 1 if "PLUS" in kinds else -1
            if kinds[2:3] == ["NUMBER"]:
                shift = sign * int(float(texts[2]))
            elif kinds[2:3] == ["LETTER"]:
                running = texts[2]
            continue
        if all(kind in ("LETTER", "PRIME") for kind in kinds):
            plain = [text for text in texts if text != "'"]
            known = all(text in INDICES for text in plain)
            if known and len(plain) <= 2:
                indices += plain
            else:
                words.append("".join(plain))
            continue
        words.append("_".join(words_of(part)))
    return Parts(tuple(x for x in words if x), tuple(indices), shift, running)


def words_of(tokens: Sequence[Token]) -> list[str]:
    """The words of some tokens; letters that touch are one, `o`, `l`, `d`."""
    words: list[str] = []
    end = -1
    for token in tokens:
        text = word(token) if token.type not in ("SUB", "SUP", "OPEN", "CLOSE", "COMMA") else ""
        if token.type == "LETTER" and token.start_pos == end and words:
            words[-1] += text
        elif text:
            words.append(text)
        end = token.end_pos or -1 if token.type == "LETTER" else -1
    return words


def _between_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.type in ("COMMA", "MID"):
            parts.append([])
        elif token.type not in ("LPAR", "RPAR", "LBRACE", "RBRACE"):
            parts[-1].append(token)
    return [part for part in parts if part]


def word(token: Token) -> str:
    """A token as a part of a name."""
    text = str(token)
    if token.type == "GREEK":
        return GREEK.get(text, text)
    if token.type in ("RELATION", "TIMES", "DOTS", "PRIME"):
        return ""
    if token.type == "PLUS":
        return "plus"
    if token.type == "MINUS":
        return "minus"
    return re.sub(r"\W+", "_", text).strip("_")


def accented(accent: str, head: str) -> tuple[str, ...]:
    """The part of a name that an accent stands for; the hat of an advantage is omitted."""
    kind = accent.removeprefix("wide").removeprefix("over")
    if kind == "hat" and head in ("A", "eps"):
        return ()
    return ({"line": "bar"}.get(kind, kind),)
