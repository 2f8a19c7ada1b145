"""Sums, statistics and expectations as reductions of the language, with their indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from lark import Token, Tree

from objdsl.ir.ops import APPLY, ATOM
from objdsl.tex.binders import Binder, Condition, binder_of, condition_of, inside
from objdsl.tex.factors import (
    Factor,
    group_at,
    is_script,
    is_token,
    items_of,
    product_in_brackets,
    says_what_is_sampled,
    script,
    set_element,
)
from objdsl.tex.parse import Node, leaves
from objdsl.tex.pieces import Piece, applied, count_of, enclosed, over, reduced, resolved, times
from objdsl.tex.reading import Reading

_Group = tuple[str, tuple[str, ...]]  # a reduction, and what it runs over


def sums(
    reading: Reading, items: Sequence[Factor], at: int, before: list[tuple[str, Piece]]
) -> Piece:
    """A run of sums over the factors after them; those that are divided by their sizes are
    means."""
    first = items[at][1]
    op = str(first.children[0]).replace("∑", "sum").replace("∏", "prod")
    run: list[Binder] = []
    while at < len(items):
        factor = items[at][1]
        if not is_token(factor, "BIG") or factor.children[0] != first.children[0]:
            break
        binder = binder_of(reading, factor)
        if run and (binder.relation or binder.mask):
            break
        run.append(binder)
        at += 1
        if binder.relation or binder.mask:
            break
    if at == len(items):
        raise reading.fail("what is summed is missing", first)
    if run[0].relation:
        others = before[-1][1].text if before else ""
        if run[0].over == ("i",) and others == "1 / (count[i] - 1)" and not run[0].mask:
            before.pop()
            op = "mean"
        return _related(reading, op, run[0], items[at:], first)
    indices = tuple(index for binder in run for index in binder.over)
    condition = condition_of(reading, run)
    with inside(reading, run):
        body = reading.product(items[at:])
        body = resolved(body) if "i" in indices else body
    if op == "prod":
        return _reductions([("prod", indices)], body, condition)
    if body.text == "|y|" and not condition:
        # A sum of lengths looks the same; of a step it is the number of tokens that is meant.
        if indices == ("p", "i"):
            return Piece("count[p,i,t]", counted=(("p", "i", "t"),))
        tokens = f"sum[{','.join(indices)}] |y|"
        depth = _depth_without(indices, 2)
        return Piece(tokens, APPLY, depth, counted=((*indices, "t"),), open=True)
    groups: list[_Group] = [("sum", binder.over) for binder in run]
    while before and before[-1][1].sizes and before[-1][0] != "/" and not condition:
        sizes = list(before[-1][1].sizes)
        for size in sorted(before[-1][1].sizes, key=len, reverse=True):
            for k in range(len(groups)):
                part = groups[k : k + len(size)]
                if part == [("sum", (index,)) for index in size]:
                    groups[k : k + len(size)] = [("mean", size)]
                    sizes.remove(size)
                    break
        sign, fraction = before.pop()
        if len(sizes) == len(fraction.sizes):
            before.append((sign, fraction))
            break
        rest = Piece(fraction.above, 0 if not fraction.above.isalnum() else ATOM)
        for size in sizes:
            rest = over(rest, count_of(size))
        if rest.text != "1":
            before.append((sign, rest))
            break
    return _reductions(_joined(groups), body, condition)


def _joined(groups: Sequence[_Group]) -> list[_Group]:
    """The reductions, with sums of sums as one."""
    joined: list[_Group] = []
    for op, indices in groups:
        if joined and joined[-1][0] == op == "sum":
            joined[-1] = op, (*joined[-1][1], *indices)
        else:
            joined.append((op, indices))
    return joined


def _related(reading: Reading, op: str, binder: Binder, items: Sequence[Factor], at: Node) -> Piece:
    """`\\sum_{j \\ne i}` and sums along the tokens, with their discounts."""
    condition = condition_of(reading, [binder])
    if binder.relation == "!=":
        with inside(reading, [binder]):
            body = reading.product(items)
        others = "".join(f", {index}" for index in binder.over[1:])
        text = f"{op}[j != i{others}{condition}] {body.held(APPLY)}"
        return Piece(text, APPLY, max(2, condition.depth), open=True)
    outer = reading.token or "t"
    decays, items = _decays(reading, binder, list(items), outer)
    running = binder.letters[0]
    s = next(x for x in "suqh" if x not in reading.definitions and x not in reading.lets)
    before, reading.position = reading.position, reading.position if decays else s
    try:
        with inside(reading, [binder]):
            if binder.running:
                reading.token = f"{outer}+{running}"
            body = reading.product(items)
    finally:
        reading.position = before
    if decays:
        if binder.relation != ">=":
            raise reading.fail("a discount is read in a sum of what is to come", at)
        return applied("togo", body, reduce(times, decays))
    text = f"{op}[{s} {binder.relation} t{condition}] {body.held(APPLY)}"
    return Piece(text, APPLY, 3, open=True)


def _decays(
    reading: Reading, binder: Binder, items: list[Factor], outer: str
) -> tuple[list[Piece], list[Factor]]:
    """The discounts at the start of a running sum, and the remaining factors."""
    decays: list[Piece] = []
    running = binder.letters[0]
    while items:
        factor = items[0][1]
        sup = [str(token) for token in script(factor, "SUP") if token.type not in ("LBAR", "RBAR")]
        base = factor.children[0]
        if sup in ([running, "-", outer], [running]) and (len(sup) > 1 or binder.running):
            plain = Tree("factor", [c for c in factor.children if not is_script(c, "SUP")])
            decays.append(reading.product([("", plain)]))
        elif (big := product_in_brackets(base)) is not None and len(items) > 1:
            inner = binder_of(reading, big[0])
            with inside(reading, [replace(inner, over=("t",))]):
                decays.append(reading.product(big[1]))
        else:
            break
        items = items[1:]
    return decays, items


def statistic(reading: Reading, name: str, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    """`\\operatorname{mean}_{j}(R_j)`, `\\mathrm{std}(\\{R_1, ..., R_G\\})`, `\\max_t x`."""
    factor = items[at][1]
    group = group_at(items, at + 1)
    binder = binder_of(reading, factor) if script(factor, "SUB") else Binder(("i",), ("*",))
    condition = condition_of(reading, [binder])
    with inside(reading, [binder]):
        if group is not None:
            inner = items_of(group)[0]
            assert inner is not None
            deeper = set_element(inner)
            body = reading.read(deeper if deeper is not None else inner)
            after = at + 2
            if name == "quantile":
                body = _with_fraction(reading, group, body)
        else:
            body, after = reading.product(items[at + 1 :]), len(items)
    if name == "std" and group is not None and not script(factor, "SUB"):
        reading.guess("`std` divides by n - 1; with n it is `pstd`")
    bound, depth = ",".join(binder.over), _depth_without(binder.over, body.depth)
    if binder.relation:
        first, present = ("j", "i") if binder.relation == "!=" else (binder.letters[0], "t")
        bound = ", ".join([f"{first} {binder.relation} {present}", *binder.over[1:]])
        depth = 2 if binder.relation == "!=" else 3
    piece = reduced(name, f"{bound}{condition}", body, max(depth, condition.depth))
    return (enclosed(piece) if group is not None else piece), after


def _with_fraction(reading: Reading, group: Tree[Token], body: Piece) -> Piece:
    """The operands of a quantile, `(x, 0.4)`."""
    parts = items_of(group)
    if len(parts) != 2 or parts[1] is None:
        raise reading.fail("a quantile has a value and a fraction", group)
    return replace(body, text=f"({body.text}, {reading.read(parts[1]).text})", level=ATOM)


def ordered(reading: Reading, name: str, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    """`\\operatorname{top}_{i,t}(x, 0.2)`: what the order of elements says of one."""
    factor, group = items[at][1], group_at(items, at + 1)
    assert group is not None
    binder = binder_of(reading, factor)
    operands = [reading.read(x).text for x in items_of(group) if x is not None]
    condition = f" | {reading.value(binder.mask).text}" if binder.mask else ""
    text = f"{name}[{','.join(binder.over)}{condition}]({', '.join(operands)})"
    depth = "pitv".index(binder.over[-1]) + 1
    return Piece(text, ATOM, depth, mask=name != "rank"), at + 2


def expectation(reading: Reading, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
    """A mean over the indices that the value after it varies with."""
    factor = items[at][1]
    sub = script(factor, "SUB")
    if at + 1 < len(items) and not sub and says_what_is_sampled(items[at + 1][1]):
        at, sub = at + 1, leaves(items[at + 1][1])
    group = group_at(items, at + 1)
    colon = next((k for k, token in enumerate(sub) if token.type == "COLON"), len(sub))
    binder = Binder(("p",), ("x",), mask=tuple(sub[colon + 1 :]))
    condition = condition_of(reading, [binder])
    with inside(reading, [binder]):
        if group is not None:
            x, after = reading.power(reading.single(group), items[at + 1][1]), at + 2
        else:
            x, after = reading.product(items[at + 1 :]), len(items)
    x = resolved(x)
    if x.depth > 3:
        raise reading.fail("an expectation over the vocabulary is `\\sum_{v}`", factor)
    indices = "pit"[: max(x.depth, 1)]
    if x.depth == 3:
        reading.guess("the expectation over tokens is a mean with one denominator, `mean[p,i,t]`")
    elif x.depth == 2 and any(str(token) == "G" for token in sub):
        reading.guess("the responses of a group are averaged")
    return reduced("mean", f"{','.join(indices)}{condition}", x, condition.depth), after


def _reductions(groups: Sequence[_Group], body: Piece, condition: Condition) -> Piece:
    """Nested reductions of a value."""
    for kind, indices in reversed(groups):
        depth = max(_depth_without(indices, body.depth), condition.depth)
        body = reduced(kind, f"{','.join(indices)}{condition}", body, depth)
    return body


def _depth_without(indices: Sequence[str], depth: int) -> int:
    """The number of indices that remain of a value that is reduced over some."""
    whole = max(depth, "pitv".index(indices[-1]) + 1)
    return len([index for index in "pitv"[:whole] if index not in indices])
