"""The derivative of a formula along a change of its policies: how a weight leaves on policy.

`differentiate` runs backwards, from one number to all leaves. This runs forwards: a direction is
given for every policy, `log old -> log old - D`, and the change of every value follows, to first
order in D. Where a value has a kink on policy, as `min(pi / old, 1)` has at 1, there is no such
derivative: the change is then a symbol of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, interval
from objdsl.analysis.algebra.symbols import Kink, Ratio, log_ratio
from objdsl.ir.build import ONE, ZERO, add, both, count, div, exp, mul, neg, real, sub, where
from objdsl.ir.differentiate import partials
from objdsl.ir.indices import Indices
from objdsl.ir.ops import UNARY


class Tangent:
    """The change of values along a direction.

    Args:
        at: formulas as sums of products where the change begins.
        direction: for each policy that changes, the ratio by whose logarithm its own
            log-probability falls.
        still: the values that are treated as constants.

    Attributes:
        kinks: the nodes that have no derivative there, each with the symbol of its change.
    """

    def __init__(
        self, at: Expand, direction: Mapping[str, Ratio], still: Callable[[n.Expr], bool]
    ) -> None:
        self.at = at
        self.direction = direction
        self.still = still
        self.kinks: dict[n.Expr, Kink] = {}
        self._known: dict[n.Expr, n.Expr] = {}

    def __call__(self, expr: n.Expr) -> n.Expr:
        """The change of a value, `ZERO` if it stays as it is. Raises TooLargeError."""
        return n.bottom_up(expr, self._known, self._find)

    def _find(self, node: n.Expr) -> n.Expr:
        """The same, given the changes of the operands; a kink where the form does not show it."""
        if isinstance(node, n.LogProb | n.LogDist):
            ratio = self.direction.get(node.policy)
            return ZERO if ratio is None else neg(log_ratio(node, ratio))
        if all(self._known[child] == ZERO for child in node.children) or self.still(node):
            return ZERO
        if node.boolean:
            return self._mask(node)
        match node:
            case n.Stop(x):
                return self._known[x]
            case n.Where(m, a, b):
                # If the mask is not decided, the jump between the two values counts as well.
                jump = mul(self._known[m], sub(real(a), real(b)))
                return add(where(m, self._known[a], self._known[b]), jump)
            case n.Binary("min" | "max" as op, a, b):
                return self._extremum(op, a, b, node)
            case n.Clip(x, lo, hi):
                floored = n.Binary("max", x, lo, span=node.span)
                self._known[floored] = self._find(floored)
                return self._find(n.Binary("min", floored, hi, span=node.span))
            case n.Unary(op, x) if UNARY[op].kinks and self.at(x).number in UNARY[op].kinks:
                return self._kink(node)
            case n.Unary(op) if UNARY[op].slope is None:
                return ZERO
            case n.Unary() | n.Binary():
                total = ZERO
                for operand, slope in partials(node):
                    total = add(total, mul(slope, self._known[operand]))
                return total
            case n.Reduce():
                return self._reduce(node)
            case n.Quantile(over, x, _, mask):
                decided = mask is None or self._known[mask] == ZERO
                if not decided or self._alike(x, over):
                    return self._kink(node)
                return n.Reduce("sum", over, mul(node.shares, self._known[x]))
            case n.Order(_, over, x):
                return self._kink(node) if self._alike(x, over) else ZERO
            case n.Peers("sum" | "mean" as op, _, x, _, _, mask) if not x.paired and (
                mask is None or self._known[mask] == ZERO
            ):
                return node.like(op, self._known[x], mask)
            case n.Scan(relation, x, decay) if decay is None or self._known[decay] == ZERO:
                return n.Scan(relation, self._known[x], decay)
            case n.Shift(x, by):
                return n.Shift(self._known[x], by)
        return self._kink(node)

    def _kink(self, node: n.Expr) -> n.Expr:
        return self.kinks.setdefault(node, Kink(len(self.kinks)))

    def _mask(self, node: n.Expr) -> n.Expr:
        """A mask stays as it is in a neighbourhood, unless the values that it compares are equal
        there and then differ."""
        match node:
            case n.Binary(op, a, b) if op in n.COMPARISONS:
                tie = not self._gap(a, b).terms
                parts = tie and self._gap(self._known[a], self._known[b]).terms
                return self._kink(node) if parts else ZERO
            case n.Order("trim", over, x, limit) if limit is not None and self._alike(x, over):
                least, most = interval(self._gap(x, limit))
                return self._kink(node) if least <= 0 <= most else ZERO
            case n.Order(_, over, x):
                return self._kink(node) if self._alike(x, over) else ZERO
        return next(self._known[x] for x in node.children if self._known[x] != ZERO)

    def _gap(self, a: n.Expr, b: n.Expr) -> Sum:
        return self.at(a) - self.at(b)

    def _alike(self, x: n.Expr, over: Indices) -> bool:
        """Whether all elements along some indices are the same number."""
        return not any(
            set(over) & set(base.indices) for factors in self.at(x).terms for base, _ in factors
        )

    def _extremum(self, op: str, a: n.Expr, b: n.Expr, node: n.Expr) -> n.Expr:
        first, second = self._known[a], self._known[b]
        gap = self._gap(a, b)
        low, high = interval(gap)
        if gap.terms and (high < 0 or low > 0):
            return first if (high < 0) == (op == "min") else second
        if not self._gap(first, second).terms:
            return first
        if not gap.terms:
            return self._kink(node)
        return where(n.Binary("lt" if op == "min" else "gt", a, b), first, second)

    def _reduce(self, node: n.Reduce) -> n.Expr:
        x, over, mask = node.x, node.over, node.where
        moved = self._known[x]
        if mask is not None and self._known[mask] != ZERO:
            return self._kink(node)
        match node.op:
            case "sum" | "mean":
                return replace(node, x=moved)
            case "prod":
                return mul(node, n.Reduce("sum", over, div(moved, x), mask))
            case "logsumexp":
                return n.Reduce("sum", over, mul(exp(sub(real(x), node)), moved), mask)
        if self._alike(x, over):
            return self._kink(node)
        if node.op in ("max", "min"):
            tie: n.Expr = n.Binary("eq", x, node)
            tie = both(mask, tie) if mask else tie
            return div(n.Reduce("sum", over, where(tie, moved, ZERO)), count(over, tie))
        size = count(over, mask)
        dof = size if node.op == "pstd" else sub(size, ONE)
        centred = sub(real(x), n.Reduce("mean", over, x, mask))
        return div(n.Reduce("sum", over, mul(centred, moved), mask), mul(dof, node))
