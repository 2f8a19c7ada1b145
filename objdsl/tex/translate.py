"""Formulas of papers as formulas of the language: trees to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from lark import Token, Tree

from objdsl.ir.ops import AND, ATOM, COMPARE, IF, NOT, OR, ORDERS, PLUS
from objdsl.ir.ops import FUNCTIONS as UNARY
from objdsl.tex.factors import (
    Factor,
    factors_of,
    group_at,
    is_argument,
    is_token,
    items_of,
    script,
    side_of,
)
from objdsl.tex.names import RELATIONS, parts_of
from objdsl.tex.parse import Node, leaves
from objdsl.tex.pieces import (
    Piece,
    applied,
    compared,
    count_of,
    enclosed,
    infix,
    logarithm,
    negated,
    number,
    over,
    times,
)
from objdsl.tex.policies import divergence, is_divergence, policy
from objdsl.tex.reading import Reading
from objdsl.tex.sums import expectation, ordered, statistic, sums
from objdsl.tex.symbols import symbol

_STOPS = {"sg", "stopgrad", "stop_grad", "stop_gradient", "stopgradient", "detach", "nograd", "sg_"}
_ORDERED = {*ORDERS, "pick"}
_STATISTICS = {"mean": "mean", "std": "std", "pstd": "pstd", "max": "max", "min": "min",
               "median": "median", "logsumexp": "logsumexp", "avg": "mean",
               "quantile": "quantile", "prod": "prod"}  # fmt: skip


def formula(reading: Reading, node: Node) -> Piece:
    """The value of a node of a formula's tree."""
    assert isinstance(node, Tree)
    parts = node.children
    match str(node.data):
        case "either" | "both" as kind:
            sign, level = ("or", OR) if kind == "either" else ("and", AND)
            return compared(reading.read(parts[0]), sign, reading.read(parts[2]), level)
        case "negation":
            x = reading.read(parts[1])
            return Piece(f"not {x.held(NOT)}", NOT, x.depth, mask=True)
        case "relation":
            return _relation(reading, node)
        case "sum":
            sign = "+" if parts[1] == "+" else "-"
            return infix(reading.read(parts[0]), sign, reading.read(parts[2]), PLUS)
        case "signed":
            x = reading.read(parts[1])
            return x if parts[0] == "+" else negated(x)
        case "product":
            return reading.product(factors_of(node))
        case "factor":
            return reading.product([("", node)])
    raise reading.fail("this is not read", node)


def _relation(reading: Reading, node: Tree[Token]) -> Piece:
    left, sign, right = node.children
    assert isinstance(sign, Token)
    written = "==" if sign.type == "EQUAL" else RELATIONS.get(str(sign))
    if written is None:
        raise reading.fail(f"`\\{sign}` is no comparison", sign)
    if isinstance(left, Tree) and left.data == "relation":  # a < b < c
        first, middle = _relation(reading, left), reading.read(left.children[2])
        return compared(first, "and", compared(middle, written, reading.read(right), COMPARE), AND)
    a, b = reading.read(left), reading.read(right)
    if b.text == "0" and a.text in reading.masks and written in ("==", "!="):  # a column, as a mask
        return a if written == "!=" else Piece(f"not {a.text}", NOT, a.depth, mask=True)
    return compared(a, written, b, COMPARE)


def product(reading: Reading, items: Sequence[Factor]) -> Piece:
    """The value of the factors of a product; a sum extends over all factors after it."""
    pieces: list[tuple[str, Piece]] = []
    at = 0
    while at < len(items):
        op, factor = items[at]
        if is_token(factor, "EVAL"):
            shift = parts_of(script(factor, "SUB")).shift
            if not pieces or shift != 1:
                raise reading.fail("only the value at the next token is read", factor)
            last = pieces.pop()
            pieces.append((last[0], applied("next", last[1])))
            at += 1
            continue
        if is_token(factor, "BIG"):
            pieces.append((op, sums(reading, items, at, pieces)))
            break
        piece, at = _unit(reading, items, at)
        pieces.append((op, piece))
    if not pieces:
        raise reading.fail("a factor is missing", [t for _, f in items for t in leaves(f)])
    if pieces[0][1].mask and len(pieces) > 2 and {op for op, _ in pieces} == {""}:
        rest = reduce(times, (piece for _, piece in pieces[1:]))
        return times(pieces[0][1], replace(enclosed(rest), sizes=(), counted=()))
    total = pieces[0][1]
    for op, piece in pieces[1:]:
        if total.text.isdigit() and piece.text.startswith("1e-"):
            total = number(f"{total.text}{piece.text[1:]}")
        else:
            total = over(total, piece) if op == "/" else times(total, piece)
    return total


def _unit(reading: Reading, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    """A factor, with the brackets after it that are its argument."""
    _, factor = items[at]
    base = factor.children[0]
    group = group_at(items, at + 1)
    if isinstance(base, Token):
        match base.type:
            case "NUMBER":
                return reading.power(_number(base, factor), factor), at + 1
            case "INFINITY":
                return number("inf"), at + 1
            case "NABLA":
                reading.guess("the gradient is taken by objdsl: the nabla is left out")
                return _unit(reading, items, at + 1)
            case "FUNCTION":
                return _function(reading, items, at)
            case "SIZE":
                letter = str(items[at + 1][1].children[0])
                size = {"i": ("i",), "x": ("p",), "t": ("t",)}.get(letter, ("p", "i"))
                return count_of(size), at + 2
            case "DOTS":
                raise reading.fail("what the dots stand for is not written", base)
            case "BLACKBOARD":
                return _blackboard(reading, items, at)
            case "GREEK" if str(base) in ("pi", "mu") and (group or base == "pi"):
                return policy(reading, factor, group), at + 1 + (group is not None)
            case "GREEK" if str(base) == "sigma" and group is not None:
                x = reading.single(group)
                return replace(applied("sigmoid", x), logistic=x.text), at + 2
            case "LETTER" if str(base) == "e" and script(factor, "SUP"):
                return applied("exp", reading.value(script(factor, "SUP"))), at + 1
            case "LETTER" | "WORD" if is_divergence(factor) and group is not None:
                return divergence(reading, factor, group), at + 2
            case "WORD":
                return _word(reading, items, at)
        return symbol(reading, factor, base, group), at + 1 + is_argument(group)
    match str(base.data):
        case "accent":
            tokens = [t for t in leaves(base)[1:] if t.type not in ("OPEN", "CLOSE")]
            if tokens and str(tokens[0]) == "E":
                return expectation(reading, items, at)
            if tokens[0] == "pi" and group is not None:
                return policy(reading, factor, group), at + 2
            return symbol(reading, factor, tokens[0], group), at + 1 + is_argument(group)
        case "fraction":
            return reading.power(_fraction(reading, base), factor), at + 1
        case "binomial":
            return applied("comb", *(_argument(reading, x) for x in base.children[1:])), at + 1
        case "root":
            root = applied("sqrt", _argument(reading, base.children[1]))
            return reading.power(root, factor), at + 1
        case "braced":
            return _argument(reading, base.children[1]), at + 1
        case "plain_group":
            inner = reading.read(base.children[1])
            return reading.power(enclosed(inner), factor), at + 1
        case "group":
            words = parts_of(script(factor, "SUB")).words
            if any(word.lower().replace(" ", "_") in _STOPS for word in words):
                return applied("sg", reading.single(base)), at + 1
            return reading.power(enclosed(reading.single(base)), factor), at + 1
        case "floored":
            return reading.power(applied("floor", reading.read(base.children[1])), factor), at + 1
        case "bars":
            return reading.power(_bars(reading, base), factor), at + 1
        case "cases":
            return _cases(reading, base), at + 1
    raise reading.fail("this is not read", factor)


def _number(base: Token, factor: Tree[Token]) -> Piece:
    sup = "".join(str(token) for token in script(factor, "SUP"))
    if str(base) == "10" and sup.lstrip("-").isdigit():
        factor.children[:] = factor.children[:1]
        return number(f"1e{sup}") if sup.startswith("-") else number(str(10 ** int(sup)))
    return number(str(base))


def _argument(reading: Reading, node: Node) -> Piece:
    """An argument of a command."""
    assert isinstance(node, Tree)
    inner = node.children[0]
    if isinstance(inner, Tree):
        return reading.read(inner.children[1])
    return reading.product([("", Tree("factor", [inner]))])


def _fraction(reading: Reading, base: Tree[Token]) -> Piece:
    above, below = (_argument(reading, x) for x in base.children[1:])
    if below.counted and above.text == "1":
        return replace(over(above, below), sizes=below.counted, above="1")
    return over(above, below)


def _bars(reading: Reading, base: Tree[Token]) -> Piece:
    inside = leaves(base)[1:-1]
    first = inside[0]
    if str(first) in ("y", "o", "a", "tau", "z") and not any(
        t.type in ("PLUS", "MINUS", "TIMES", "FRAC") for t in inside
    ):
        parts = parts_of(inside[2:] if len(inside) > 2 else [])
        reading.check(parts, inside)
        at = side_of(parts, [])
        return Piece("|y|", depth=2, counted=(("t",),), at=at)
    if first.type == "CALLIGRAPHIC" and str(first) == "V":
        return Piece("count[v]", depth=3, counted=(("v",),))
    return applied("abs", reading.read(base.children[1]))


def _cases(reading: Reading, base: Tree[Token]) -> Piece:
    rows = [child for child in base.children if isinstance(child, Tree)]
    values: list[tuple[Piece, Piece | None]] = []
    for row in rows:
        trees = [child for child in row.children if isinstance(child, Tree)]
        value, condition = reading.read(trees[0]), None
        if len(trees) > 1 and isinstance(trees[1].children[0], Tree):
            condition = reading.read(trees[1].children[0])
        values.append((value, condition))
    result = values[-1][0]
    for value, condition in reversed(values[:-1]):
        if condition is None:
            raise reading.fail("a case has a condition", base)
        depth = max(value.depth, result.depth, condition.depth)
        text = f"{value.held(IF + 1)} if {condition.held(IF + 1)} else {result.held(IF)}"
        result = Piece(text, IF, depth)
    return Piece(f"({result.text})", ATOM, result.depth)


def _function(reading: Reading, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    factor = items[at][1]
    name = str(factor.children[0])
    group = group_at(items, at + 1)
    if name in ("min", "max", "sup", "inf"):
        name = {"sup": "max", "inf": "min"}.get(name, name)
        if group is not None and len(items_of(group)) > 1:
            operands = [reading.read(x) for x in items_of(group) if x is not None]
            return applied(name, *operands), at + 2
        if script(factor, "SUB"):
            return statistic(reading, name, items, at)
        raise reading.fail(f"`\\{name}` is read of two values, or over an index", factor)
    if at + 1 == len(items):
        raise reading.fail(f"what `\\{name}` is taken of is missing", factor)
    if name in ("log", "ln", "exp") and is_token(items[at + 1][1], "BIG"):
        x, after = reading.product(items[at + 1 :]), len(items)
    else:
        x, after = _unit(reading, items, at + 1)
    while after < len(items) and is_token(items[after][1], "EVAL"):
        x, after = applied("next", x), after + 1
    value = applied("exp", x) if name == "exp" else logarithm(x)
    return reading.power(value, factor), after


def _word(reading: Reading, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    factor = items[at][1]
    base = factor.children[0]
    assert isinstance(base, Token)
    name = str(base).strip()
    plain = name.lower().replace(" ", "_").replace("-", "_")
    group = group_at(items, at + 1)
    if plain in _ORDERED and group is not None and script(factor, "SUB"):
        return ordered(reading, plain, items, at)
    if plain in _STATISTICS and (group is not None or script(factor, "SUB")):
        return statistic(reading, _STATISTICS[plain], items, at)
    if group is not None:
        if plain in _STOPS:
            return applied("sg", reading.single(group)), at + 2
        if plain in ("clip", "clamp"):
            return _clip(reading, group), at + 2
        if plain in ("min", "max"):
            return applied(
                plain, *(reading.read(x) for x in items_of(group) if x is not None)
            ), at + 2
        if plain in ("sign", "sgn"):
            return applied("sign", reading.single(group)), at + 2
        if plain in UNARY:
            return applied(plain, reading.single(group)), at + 2
        if plain in ("1", "i"):
            return _condition(reading, group), at + 2
    return symbol(reading, factor, base, group), at + 1 + is_argument(group)


def _clip(reading: Reading, group: Tree[Token]) -> Piece:
    parts = [reading.read(x) for x in items_of(group) if x is not None]
    if len(parts) == 2:
        reading.guess("a clip with one bound is taken for the interval around 1")
        width = parts[1].text
        parts = [parts[0], number(f"1 - {width}"), number(f"1 + {width}")]
    if len(parts) != 3:
        raise reading.fail("a clip has a value and two bounds", group)
    return applied("clip", *parts)


def _condition(reading: Reading, group: Tree[Token]) -> Piece:
    x = reading.single(group)
    return replace(enclosed(x), mask=True)


def _blackboard(reading: Reading, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    factor = items[at][1]
    name = str(factor.children[0])
    group = group_at(items, at + 1)
    if name == "E":
        return expectation(reading, items, at)
    if name in ("1", "I"):
        if group is not None:
            return _condition(reading, group), at + 2
        condition = reading.value(
            [t for t in script(factor, "SUB") if t.type not in ("LBRACE", "RBRACE")]
        )
        return Piece(f"({condition.text})", depth=condition.depth, mask=True), at + 1
    if name in ("D", "KL") and group is not None:
        return divergence(reading, factor, group), at + 2
    raise reading.fail(f"`\\mathbb{{{name}}}` is not read here", factor)
