"""The objective that remains once it is known of some masks whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.ir import build
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.objective import Named, Objective
from objdsl.ir.ops import BINARY, REDUCE


def decided(objective: Objective, holds: Mapping[n.Expr, bool]) -> Objective:
    """The objective where it is known of some masks whether they hold."""
    if not holds:
        return objective
    fold = _Fold(holds)
    critic, dual, keep = objective.critic, objective.dual, objective.keep

    def named(many: tuple[Named, ...]) -> tuple[Named, ...]:
        return tuple(replace(part, value=fold(part.value)) for part in many)

    return replace(
        objective,
        goal=fold(objective.goal),
        critic=None if critic is None else fold(critic),
        dual=None if dual is None else fold(dual),
        keep=None if keep is None or fold.mask(keep) is True else fold(keep),
        reports=named(objective.reports),
        bindings=named(objective.bindings),
        calls=named(objective.calls),
    )


class _Fold:
    """Formulas in which masks are decided."""

    def __init__(self, holds: Mapping[n.Expr, bool]) -> None:
        self.holds = dict(holds)
        self.known: dict[n.Expr, n.Expr] = {}

    def __call__(self, root: n.Expr) -> n.Expr:
        return n.bottom_up(root, self.known, self._folded)

    def mask(self, root: n.Expr) -> bool | None:
        """Whether a mask holds, if that is decided."""
        self(root)
        return self.holds.get(root)

    def _folded(self, node: n.Expr) -> n.Expr:
        if node in self.holds:
            return node
        if all(self.known[child] is child for child in node.children) and not any(
            child in self.holds for child in node.children
        ):
            return node
        match node:
            case n.Where(m, a, b) if m in self.holds:
                return self._taken(node, a if self.holds[m] else b)
            case n.Unary("not", m) if m in self.holds:
                return self._decide(node, not self.holds[m])
            case n.Stop(m) if m in self.holds:
                return self._decide(node, self.holds[m])
            case n.Binary("and" | "or" as op, a, b) if a in self.holds or b in self.holds:
                first, other = (a, b) if a in self.holds else (b, a)
                if self.holds[first] is (op == "or"):
                    return self._decide(node, op == "or")
                return self._taken(node, other)
            case n.Reduce(op, over, x, m) if m is not None and m in self.holds:
                empty = build.const(REDUCE[op].empty)
                return n.Reduce(op, over, self.known[x], span=node.span) if self.holds[m] else empty
            case n.Order() | n.Pick():  # they choose among all indices of their operands
                same = {
                    child: self.known[child]
                    for child in node.children
                    if self.known[child].indices == child.indices
                }
                return node.rebuilt(same)
        return _simpler(node.rebuilt(self.known))

    def _taken(self, node: n.Expr, side: n.Expr) -> n.Expr:
        if side in self.holds:
            return self._decide(node, self.holds[side])
        return self.known[side]

    def _decide(self, node: n.Expr, holds: bool) -> n.Expr:
        self.holds[node] = holds
        return node


def _simpler(node: n.Expr) -> n.Expr:
    """A value without what a factor of 0 takes away, so that nobody computes that."""
    match node:
        case n.Binary("add" | "sub" | "mul" as op, n.Const(p), n.Const(q)):
            return build.const(BINARY[op].value(p, q))
        case n.Binary("mul", a, b) if ZERO in (a, b):
            return ZERO
        case n.Binary("mul", a, b) if ONE in (a, b):
            return b if a == ONE else a
        case n.Binary("add", a, b) if ZERO in (a, b):
            return b if a == ZERO else a
        case n.Binary("sub", a, b) if ZERO in (a, b):
            return a if b == ZERO else build.neg(b)
        case n.Binary("div", a, _) if a == ZERO:
            return ZERO
        case n.Unary("neg", x) | n.Stop(x) if x == ZERO:
            return ZERO
        case n.Where(_, a, b) if a == b:
            return a
        case n.Reduce("sum" | "mean" | "max" | "min", _, x) if x == ZERO:
            return ZERO
    return node
