"""The order of responses that share keys, `median[i by parent] x`: by comparing every two of them.

What orders a whole group does so once, `n.Order`. Here each response has peers of its own, and how
many of them are smaller, equal or larger says the same.
"""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir import build
from objdsl.ir.build import ONE, ZERO

_NOISE = build.const(1e-9)  # as in `objdsl.ir.ops`, of a number of elements


@dataclass(frozen=True)
class SharedOrder:
    """The order of `x` among the responses to a prompt that share the keys, where the mask holds.

    Attributes:
        x: a value of each response.
        keys: what those that are compared share.
        mask: which are compared; None for all.
    """

    x: n.Expr
    keys: tuple[n.Expr, ...]
    mask: n.Expr | None

    def rank(self) -> n.Expr:
        return build.add(ONE, self._others("lt", ONE))

    def quantile(self, at: n.Expr) -> n.Expr:
        """Each element has the part of it that its places have between the two that are next to
        the one asked for; elements that tie share theirs."""
        if not isinstance(at, n.Const):
            at = n.Clip(at, ZERO, ONE)
        place = build.mul(at, build.sub(self._shared("sum", ONE), ONE))
        below, equal = self._others("lt", ONE), build.add(ONE, self._others("eq", ONE))
        after = n.Clip(build.sub(build.add(below, equal), place), ZERO, ONE)
        before = n.Clip(build.sub(below, place), ZERO, ONE)
        share = build.div(build.sub(after, before), equal)
        return self._shared("sum", build.mul(share, self.x))

    def chosen(self, op: n.OrderOp, at: n.Expr) -> n.Expr:
        """The mask of the largest, `top` and `topk`, or of the smallest, `trim`."""
        many = build.add(ONE, self._others("le" if op == "trim" else "ge", ONE))
        match op:
            case "top":
                most = build.mul(at, self._shared("sum", ONE))
                chosen = n.Binary("le", many, build.add(most, _NOISE))
            case "topk":
                chosen = n.Binary("le", many, build.add(at, _NOISE))
            case "trim":
                mean = build.div(build.add(self.x, self._others("le", self.x)), many)
                most = build.add(at, build.mul(_NOISE, n.Unary("abs", at)))
                chosen = n.Binary("le", mean, most)
            case _:
                raise TypeError(f"`{op}` chooses no responses")
        return chosen if self.mask is None else build.both(self.mask, chosen)

    def _others(self, relation: n.BinaryOp, value: n.Expr) -> n.Expr:
        """The sum of a value of the others that stand in a relation to the present one."""
        compared = n.Binary(relation, self.x, n.Present(self.x))
        body = build.where(compared, value, ZERO)
        return n.Peers("sum", ("i",), body, self.keys, "!=", self.mask)

    def _shared(self, op: n.ReduceOp, value: n.Expr) -> n.Expr:
        return n.Peers(op, ("i",), value, self.keys, "", self.mask)
