"""The memory of an expansion: each formula is written as a sum of products once, operands first."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError, atom, number, to_power
from objdsl.ir.build import const

# Up to this depth of nested choices, both sides are expanded before one is chosen.
_DEEP = 16

# Nodes that have not been expanded yet.
_UNKNOWN = Sum()


@dataclasses.dataclass
class Expansion(ABC):
    """Formulas to sums of products.

    Args:
        params: the values of the parameters.
        same: policies to be taken for others, `{"old": "pi", "mu": "pi"}` for what holds on policy.
        apart: policies to be written by their distance to another, `{"ref": "pi"}`: `log ref` is
            then `log pi` plus their `LogRatio`.
        at: the expansion that decides branches (`min`, `clip`, masks), usually the one on policy,
            so that the result is right in a neighbourhood of it. Without one they are decided here.
        trained: the policies that a gradient flows through.

    Attributes:
        origin: for a factor that was rewritten, the node of the formula that it came from.
    """

    params: Mapping[str, float]
    same: Mapping[str, str] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    at: Expansion | None = None
    trained: frozenset[str] = frozenset({"pi"})
    origin: dict[n.Expr, n.Expr] = field(default_factory=dict)
    _known: dict[n.Expr, Sum | None] = field(default_factory=dict)
    _policies: dict[n.Expr, bool] = field(default_factory=dict)
    _depth: int = 0

    @abstractmethod
    def _expand(self, node: n.Expr) -> Sum:
        """The sum of one node, whose operands are known unless it is a choice between them."""

    def __call__(self, expr: n.Expr) -> Sum:
        """Raises TooLargeError."""
        known = self._known.get(expr, _UNKNOWN)
        if known is _UNKNOWN:
            self._known[expr] = None  # what is too large stays so
            known = self._operands_first(expr)
        if known is None:
            raise TooLargeError
        return known

    def _operands_first(self, expr: n.Expr) -> Sum | None:
        """Expands a formula without recursion, since chains may be long. None if it is too
        large."""
        known, stack = self._known, [expr]
        self._depth += 1
        while stack:
            node = stack[-1]
            try:
                if self.at is not None and not self._reads_policy(node):
                    known[node] = self.at(node)
                else:
                    lazy = self._depth < _DEEP and _decides(node)
                    waiting = [] if lazy else [x for x in node.children if x not in known]
                    if waiting:
                        stack += reversed(waiting)
                        continue
                    known[node] = None
                    known[node] = self._expand(node)
            except TooLargeError:
                known[node] = None
            stack.pop()
        self._depth -= 1
        return known[expr]

    def _reads_policy(self, expr: n.Expr) -> bool:
        """Whether a value reads policies, which `at` may treat as equal."""
        known = self._policies

        def reads(node: n.Expr) -> bool:
            leaf = isinstance(node, n.LogProb | n.LogDist | n.Symbol)
            return leaf or any(known[child] for child in node.children)

        return n.bottom_up(expr, known, reads)

    def atom(self, base: n.Expr, origin: n.Expr, exponent: float = 1.0) -> Sum:
        """A value as a single factor; a value of one column with two values in its affine form."""
        affine = self._of_two_values(base, exponent)
        if affine is not None:
            return affine
        self.note(base, origin)
        return atom(base, exponent)

    def _of_two_values(self, base: n.Expr, exponent: float) -> Sum | None:
        """A function of a column with two values, as the affine function that it is."""
        if not isinstance(base, n.Unary | n.Binary | n.Clip | n.Where) or len(base.indices) > 2:
            return None
        leaves = [node for node in n.topological(base) if not node.children]
        columns = {leaf for leaf in leaves if not isinstance(leaf, n.Const)}
        column = columns.pop() if len(columns) == 1 else None
        if not isinstance(column, n.Column) or len(set(column.values)) != 2:
            return None
        if any(
            isinstance(node, n.Reduce | n.Quantile | n.Order | n.Peers | n.Present)
            for node in n.topological(base)
        ):
            return None
        low, high = sorted(set(column.values))
        values = [self(n.replaced(base, {column: const(x)})).number for x in (low, high)]
        if None in values or (exponent < 0 and 0.0 in values):
            return None
        at_low, at_high = (to_power(x, exponent) for x in values)  # type: ignore[arg-type]
        rise = (at_high - at_low) / (high - low)
        return number(at_low - rise * low) + atom(column).scaled(rise)

    def note(self, base: n.Expr, origin: n.Expr) -> None:
        """Records which node a factor comes from: of several nodes, the first in the text."""
        known = self.origin.get(base)
        if known is None or (known.span is None and origin.span is not None):
            self.origin[base] = origin


def _decides(node: n.Expr) -> bool:
    """Whether a node may need only some of its operands."""
    if isinstance(node, n.Binary):
        return node.boolean or node.op in ("min", "max")
    return isinstance(node, n.Clip | n.Where | n.Order | n.Pick)
