"""Policies, `\\pi_\\theta(y_t | x, y_{<t})`, and the divergence of two."""

from __future__ import annotations

from lark import Token, Tree

from objdsl.ir.ops import APPLY
from objdsl.spelling import identifier
from objdsl.tex.factors import all_factors, first_script, items_of, script, side_of
from objdsl.tex.names import POLICIES, parts_of, words_of
from objdsl.tex.parse import leaves
from objdsl.tex.pieces import Piece, reduced
from objdsl.tex.reading import Reading


def policy(reading: Reading, factor: Tree[Token], group: Tree[Token] | None) -> Piece:
    name = _policy_name(reading, factor)
    if group is None:
        return Piece(name, depth=3)
    tokens = leaves(group)[1:-1]
    mid = next((k for k, t in enumerate(tokens) if t.type == "MID"), len(tokens))
    outcome, given = tokens[:mid], tokens[mid + 1 :]
    first = next((t for t in outcome if t.type in ("LETTER", "GREEK", "WORD", "DOTS")), None)
    if first is None:
        raise reading.fail("a policy is asked for a response, or a token of it", group)
    parts = parts_of(first_script(outcome, "SUB"))
    later = parts_of(first_script(outcome, "SUP"))
    reading.check(parts, outcome)
    at = side_of(parts, [str(t) for t in first_script(outcome, "SUP")])
    letters = [x for x in (*parts.indices, *later.indices) if not at or x not in "wl"]
    indices = {reading.index_of(letter) for letter in letters}
    before = any(t.type == "RELATION" for t in given)
    inside = [t for k, t in enumerate(given) if k and given[k - 1].type in ("SUB", "OPEN")]
    state = any(t.type == "LETTER" and reading.index_of(str(t)) == "t" for t in inside)
    if str(first) == "v" or (first.type == "DOTS" and (before or state)):
        return Piece(f"{name}[v]", depth=4)
    if "t" in indices or before or (str(first) == "a" and "i" not in indices):
        return Piece(name, depth=3, at=at)
    return Piece(f"prod[t] {name}", APPLY, 2, at, product=name, open=True)


def _policy_name(reading: Reading, factor: Tree[Token]) -> str:
    tokens = leaves(factor)
    base = next(t for t in tokens if t.type == "GREEK")
    if base == "mu":
        return "mu"
    sub, sup = script(factor, "SUB"), script(factor, "SUP")
    key = "_".join((*words_of(sub), *words_of(sup)))
    key = key.lower().replace(" ", "_")
    while "__" in key:
        key = key.replace("__", "_")
    if key in reading.declared:
        return key
    for candidate in (key, key.removeprefix("theta_"), key.split("_")[-1]):
        if candidate in POLICIES:
            return POLICIES[candidate]
    name = identifier(key.removeprefix("theta_"))
    guess = "" if name in reading.declared else "guessed: a frozen policy"
    reading.policies.setdefault(name, guess)
    return name


def is_divergence(factor: Tree[Token]) -> bool:
    text = "".join(str(t) for t in (*leaves(factor)[:1], *script(factor, "SUB")))
    return text.replace("_", "").lower() in ("dkl", "kl", "dtextkl", "d kl")


def divergence(reading: Reading, factor: Tree[Token], group: Tree[Token]) -> Piece:
    parts = [x for x in items_of(group) if x is not None]
    if len(parts) != 2:
        raise reading.fail("a divergence is that of two policies", group)
    policies = []
    exact = False
    for part in parts:
        tokens = leaves(part)
        base = next((f for f in all_factors(part) if str(leaves(f)[0]) in ("pi", "mu")), None)
        if base is None:
            raise reading.fail("a divergence is that of two policies", part)
        exact |= any(t.type == "DOTS" for t in tokens) and any(
            t.type == "RELATION" or (t == "t" and t.type == "LETTER") for t in tokens
        )
        policies.append(_policy_name(reading, base))
    p, q = policies
    if exact:
        return Piece(f"sum[v] ({p}[v] * log({p}[v] / {q}[v]))", APPLY, 3, open=True)
    reading.guess("the divergence is estimated from the sampled tokens by `k3`")
    x = Piece(f"k3({p}, {q})", depth=3)
    missing = [index for index in "it" if index not in reading.bound]
    if "t" in missing:
        reading.guess("and averaged over the tokens of a response")
        x = reduced("mean", "t", x, 2)
    if "i" in missing and "t" in missing and "p" in reading.bound:
        x = reduced("mean", "i", x, 1)
    return x
