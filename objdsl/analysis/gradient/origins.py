"""The node of the file that a factor of a weight comes from: the place of a finding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.frozen import dataclass
from objdsl.ir.indices import Indices


@dataclass(frozen=True)
class Origins:
    """The origins of the factors of one weight.

    Attributes:
        goal: what the weight is a derivative of.
        expand: the expansion that the factors come from.
    """

    goal: n.Expr
    weight: n.Expr
    expand: Expand

    def of(self, base: n.Expr) -> n.Expr:
        """The outermost of several equal nodes, because a reader looks for a divisor of the weight
        itself; for a node that differentiation created, its outermost part in the file."""
        node = self._outermost.get(base) or self.expand.origin.get(base, base)
        if node.span is not None:
            return node
        parts = (part for part in n.topological(node)[::-1] if part.span is not None)
        return next(parts, self.goal)

    def outermost_mean(self, origin: n.Expr) -> n.Expr:
        """The outermost mean with the divisor of a mean: where the same divisor weights the reward
        and a baseline, it is the reward's."""
        match origin:
            case n.Reduce("mean", over, _, where):
                return self._means.get((over, where), origin)
        return origin

    @cached_property
    def _means(self) -> dict[tuple[Indices, n.Expr | None], n.Expr]:
        means: dict[tuple[Indices, n.Expr | None], n.Expr] = {}
        for node in _level_by_level(self.goal):
            if isinstance(node, n.Reduce) and node.op == "mean" and node.span is not None:
                means.setdefault((node.over, node.where), node)
        return means

    @cached_property
    def _outermost(self) -> dict[n.Expr, n.Expr]:
        outermost: dict[n.Expr, n.Expr] = {}
        for node in _level_by_level(self.weight):
            if node.span is not None:
                outermost.setdefault(node, node)
        return outermost


def _level_by_level(x: n.Expr) -> Iterator[n.Expr]:
    """The nodes of a formula, from the outside inwards."""
    level, seen = [x], set[n.Expr]()
    while level:
        yield from level
        seen.update(level)
        below = dict.fromkeys(child for node in level for child in node.children)
        level = [child for child in below if child not in seen]
