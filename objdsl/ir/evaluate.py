"""The oracle: the meaning of the maths IR, one element at a time, in float64.

Nothing here is fast and nothing is shared with the emitted code. A value is a dictionary from
addresses to numbers; the address of a token is `(p, i, t)`: its prompt, the rank of its response
among those to that prompt, and its position from 0. Padding does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any, assert_never

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir.columns import NOISE, column_of
from objdsl.ir.indices import PROMPT, SCALAR, Index, Indices, over_to
from objdsl.ir.ops import BINARY, ORDER, REDUCE, UNARY

Address = tuple[int, ...]
Value = dict[Address, float]


@dataclass(frozen=True)
class Batch:
    """A ragged optimizer step of N responses.

    Attributes:
        prompt: N prompt ids, in any order; responses with the same id are one group.
        lengths: N numbers of tokens.
        columns: response columns as N numbers, token columns as N arrays `[length]`, columns with
            a vocabulary as N arrays `[length, V]`, prompt columns as N numbers (equal in a group),
            what has no index as a number.
    """

    prompt: Sequence[int]
    lengths: Sequence[int]
    columns: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: int = 0

    @cached_property
    def groups(self) -> list[list[int]]:
        """The rows of each prompt; prompts are in increasing order of their id."""
        groups: dict[int, list[int]] = {}
        for row, prompt in enumerate(self.prompt):
            groups.setdefault(int(prompt), []).append(row)
        return [groups[prompt] for prompt in sorted(groups)]

    def addresses(self, indices: Indices, start: Address = ()) -> Iterator[Address]:
        """Every address of a value with these indices that begins with `start`."""
        if len(start) == len(indices):
            yield start
            return
        for step in range(self.size(indices[len(start)], start)):
            yield from self.addresses(indices, (*start, step))

    def size(self, index: Index, at: Address) -> int:
        """The number of elements of an index, at an address that ends before it."""
        match index:
            case "p":
                return len(self.groups)
            case "i":
                return len(self.groups[at[0]])
            case "t":
                return int(self.lengths[self.row(at)])
            case "v":
                return self.vocabulary

    def row(self, at: Address) -> int:
        return self.groups[at[0]][at[1] if len(at) > 1 else 0]

    def read(self, column: str, at: Address) -> float:
        value: Any = self.columns[column]
        if not at:
            return float(value)
        value = value[self.row(at)]
        for step in at[2:]:
            value = value[step]
        return float(value)


def evaluate(
    roots: Sequence[n.Expr], batch: Batch, params: Mapping[str, float] | None = None
) -> list[Any]:
    """The value of each formula on a batch.

    Returns, for each root: a float if it has no index, a list `[P]` or `[N]` (rows in the order of
    the batch) for prompts or responses, and N lists `[length]` or `[length, V]` for tokens or the
    vocabulary. Masks are 0.0 and 1.0.
    """
    values: dict[n.Expr, Value] = {}
    rule = _Rule(batch, params or {}, values)
    for node in n.topological(*roots):
        if node.paired:
            continue  # has a value for each two elements, and is asked for where they are
        values[node] = {at: float(rule(node, at)) for at in batch.addresses(node.indices)}
    return [_gathered(values[root], root.indices, batch) for root in roots]


def _gathered(value: Value, indices: Indices, batch: Batch) -> Any:
    if indices == SCALAR:
        return value[()]
    if indices == PROMPT:
        return [value[(p,)] for p in range(len(batch.groups))]

    def below(at: Address) -> Any:
        if len(at) == len(indices):
            return value[at]
        steps = range(batch.size(indices[len(at)], at))
        return [below((*at, step)) for step in steps]

    rows: list[Any] = [None] * len(batch.prompt)
    for p, group in enumerate(batch.groups):
        for i, row in enumerate(group):
            rows[row] = below((p, i))
    return rows


RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "!=": lambda s, t: s != t,
    "<": lambda s, t: s < t,
    "<=": lambda s, t: s <= t,
    ">": lambda s, t: s > t,
    ">=": lambda s, t: s >= t,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """The value of one node at one address, given the values of its operands everywhere.

    Attributes:
        present: of a value of two elements, the address of the present one.
    """

    batch: Batch
    params: Mapping[str, float]
    values: Mapping[n.Expr, Value]
    present: Address | None = None

    def of(self, operand: n.Expr, at: Address) -> float:
        if operand.paired:
            return self(operand, at)
        return self.values[operand][at[: len(operand.indices)]]

    def __call__(self, node: n.Expr, at: Address) -> float:
        match node:
            case n.Const(value):
                return value
            case n.Param(name):
                return float(self.params[name])
            case n.Column() | n.LogProb() | n.LogDist():
                value = self.batch.read(column_of(node).name, at)
                if isinstance(node, n.LogDist):
                    value = max(value, n.IMPOSSIBLE)
                return bool(value) if node.boolean else value
            case n.Length():
                return float(self.batch.lengths[self.batch.row(at)])
            case n.Position():
                return float(at[2] + 1)
            case n.Unary(op, x):
                return UNARY[op].value(self.of(x, at))
            case n.Binary(op, a, b):
                return BINARY[op].value(self.of(a, at), self.of(b, at))
            case n.Clip(x, lo, hi):
                lower = BINARY["max"].value(self.of(x, at), self.of(lo, at))
                return BINARY["min"].value(lower, self.of(hi, at))
            case n.Where(m, a, b):
                return self.of(a, at) if self.of(m, at) else self.of(b, at)
            case n.Stop(x):
                return self.of(x, at)
            case n.Reduce():
                return self.reduce(node, at)
            case n.Peers():
                return self.among_peers(node, at)
            case n.Present(x):
                assert self.present is not None
                return self.values[x][self.present[: len(x.indices)]]
            case n.Scan(relation, x, decay):
                return REDUCE["sum"].value(
                    [
                        self.decayed(decay, at, s) * self.of(x, (*at[:2], s))
                        for s in range(self.batch.lengths[self.batch.row(at)])
                        if RELATIONS[relation](s, at[2])
                    ]
                )
            case n.Shift(x, by):
                there = at[2] + by
                inside = 0 <= there < self.batch.lengths[self.batch.row(at)]
                return self.of(x, (*at[:2], there)) if inside else 0.0
            case n.Quantile(_, _, fraction):
                values = sorted(self.within(node, at), key=_placed)
                if not values:
                    return 0.0
                place = min(max(self.of(fraction, at), 0.0), 1.0) * (len(values) - 1)
                low, high = values[math.floor(place)], values[math.ceil(place)]
                return low if low == high else low + (place % 1) * (high - low)
            case n.Order(op, _, x, argument, mask):
                if op != "rank" and mask is not None and not self.of(mask, at):
                    return 0.0
                pool = list(map(_placed, self.within(node, at)))
                number = math.nan if argument is None else self.of(argument, at)
                return ORDER[op].value(pool, _placed(self.of(x, at)), number)
            case n.Pick(over, m, fraction):
                domain = self.domain(over, at)
                noise = {other: self.batch.read(NOISE.name, other) for other in domain}
                drawn = sorted((o for o in domain if self.of(m, o)), key=lambda o: noise[o])
                return at in drawn[: share(self.of(fraction, at), len(domain))]
            case n.Symbol():
                raise TypeError(f"{type(node).__name__} has no value in a batch")
        assert_never(node)

    def domain(self, over: Indices, at: Address) -> list[Address]:
        """The addresses that share with `at` every index that is not in `over`."""
        start = at[: over_to(over).index(over[0])]
        return list(self.batch.addresses(over_to(over), start))

    def decayed(self, decay: n.Expr | None, at: Address, s: int) -> float:
        """The discounted part of a value at one position that reaches a different one."""
        if decay is None:
            return 1.0
        between = range(min(s, at[2]), max(s, at[2]))
        return math.prod(self.of(decay, (*at[:2], u)) for u in between)

    def within(self, node: n.Reduce | n.Quantile | n.Order, at: Address) -> list[float]:
        """The values that a node reduces or orders, for one of its addresses."""
        return [
            self.of(node.x, other)
            for other in self.domain(node.over, at)
            if node.where is None or self.of(node.where, other)
        ]

    def reduce(self, node: n.Reduce, at: Address) -> float:
        row, values = REDUCE[node.op], self.within(node, at)
        return row.value(values) if values else row.empty

    def among_peers(self, node: n.Peers, at: Address) -> float:
        row, here = REDUCE[node.op], replace(self, present=at)
        values = [
            here.of(node.x, other)
            for other in self.batch.addresses(node.elements, at[: len(node.outer)])
            if here.is_peer(node, other)
            if node.where is None or here.of(node.where, other)
        ]
        if len(values) == 1 and node.op == "std":
            return 0.0
        return row.value(values) if values else row.empty

    def is_peer(self, node: n.Peers, other: Address) -> bool:
        """Whether an element is a peer of the present one."""
        here = self.present
        assert here is not None
        if node.relation:
            axis = len(node.outer)
            if not RELATIONS[node.relation](other[axis], here[axis]):
                return False
        return all(self.of(key, other) == self.of(key, here) for key in node.keys)


def _placed(x: float) -> float:
    """The sort key of a value: NaN is the largest."""
    return math.inf if math.isnan(x) else x


def share(fraction: float, total: int) -> int:
    """How many of `total` elements a fraction is: rounded up, except for rounding errors."""
    return max(0, min(total, math.ceil(float(fraction) * total - 1e-9)))
