"""Formulas as text in the syntax of the language."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.indices import Indices, decimal
from objdsl.ir.ops import APPLY, ATOM, BINARY, CALLED, COMPARE, COUNT, IF, NOT, POWER, SIGN, TIMES
from objdsl.ir.writer import HERE, RESPONSES, Construct, Names, Piece, Place, Writer

COUNTS: dict[Indices, str] = {
    ("p",): "P", ("i",): "G", ("p", "i"): "N", ("v",): "|V|", ("i", "t"): "(sum[i] |y|)",
    ("p", "i", "t"): "(sum[p,i] |y|)",
}  # fmt: skip


def text(expr: n.Expr, names: Names | None = None, *, width: int = 10_000) -> str:
    """A formula in the syntax of the language. Formulas in `names` are written by their name,
    except `expr` itself. Sizes are written `P` (prompts), `G` (group), `N` (responses)."""
    return Text(names or {}, (expr,), width).show(expr)


class Text(Writer):
    """Writes formulas in the syntax of the language."""

    def _inside(self, node: n.Expr) -> Place:
        match node:
            case n.Scan(relation, _, decay) if relation != ">=" or decay is None:
                return self._beside()
            case n.Peers(_, ("t",), relation=relation) if relation:
                return self._beside()
            case n.Reduce(_, over) | n.Quantile(over) if "t" in over:
                return replace(self.place, token=HERE.token)
        return self.place

    def _construct(self, node: Construct) -> Piece:
        match node:
            case n.Const(value):
                return decimal(value), ATOM if value >= 0 else SIGN
            case n.Length():
                return "|y|", ATOM
            case n.Unary("neg", x):
                return f"-{self.at(x, SIGN)}", SIGN
            case n.Unary("not", x):
                return f"not {self.at(x, NOT + 1)}", NOT
            case n.Unary(op, x):
                return f"{op}({self.done[x][0]})", ATOM
            case n.Binary(op, a, b) if op in CALLED:
                return f"{op}({self.done[a][0]}, {self.done[b][0]})", ATOM
            case n.Binary(op, a, b):
                return self._infix(op, a, b)
            case n.Clip(x, lo, hi):
                return f"clip({self.done[x][0]}, {self.done[lo][0]}, {self.done[hi][0]})", ATOM
            case n.Where(m, a, b) if b == ZERO:
                gate = self.at(m, POWER)
                return (f"{gate} * {self.at(a, SIGN)}", TIMES) if a != ONE else (gate, ATOM)
            case n.Where(m, a, b):
                then, otherwise = self.at(a, IF + 1), self.at(b, IF)
                return f"{then} if {self.at(m, IF + 1)} else {otherwise}", IF
            case n.Stop(x):
                return f"sg({self.done[x][0]})", ATOM
            case n.Reduce("sum", _, x) if x == ONE and COUNT not in self.taken:
                with self._at_place(self._inside(node)):
                    return f"{COUNT}[{self._binder(node)}]", ATOM
            case n.Reduce(op, _, x):
                with self._at_place(self._inside(node)):
                    return f"{op}[{self._binder(node)}] {self.at(x, APPLY)}", APPLY
            case n.Peers():
                return self._peers(node)
            case n.Present(x):
                return f"{self.at(x, ATOM)}[{HERE.response}]", ATOM
            case n.Scan(">=", x, decay) if decay is not None:
                return f"togo({self.done[x][0]}, {self.done[decay][0]})", ATOM
            case n.Scan(relation, x, decay):
                t, inside = self.place.token, self._inside(node)
                s = inside.token
                with self._at_place(inside):
                    body = self.at(x, APPLY if decay is None else SIGN)
                if decay is None:
                    return f"sum[{s} {relation} {t}] {body}", APPLY
                u = self._further(inside) if "t" in decay.indices else inside
                with self._at_place(u):
                    g = self.at(decay, APPLY)
                first, last = (t, s) if relation == ">" else (s, t)
                factor = f"{g}^abs({s} - {t})"
                if u != inside:
                    factor = f"prod[{first} <= {u.token} < {last}] {g}"
                return f"sum[{s} {relation} {t}] ({factor} * {body})", APPLY
            case n.Shift(x, by):
                return f"{'next' if by > 0 else 'previous'}({self.done[x][0]})", ATOM
            case n.Quantile(_, x, n.Const(0.5)):
                return self._of_order("median", node, x)
            case n.Quantile(_, x, at):
                return self._of_order("quantile", node, x, at)
            case n.Order(op, _, x, at):
                return self._of_order(op, node, x, at)
            case n.Pick(over, m, fraction):
                arguments = f"{self.done[m][0]}, {self.done[fraction][0]}"
                return f"pick[{','.join(over)}]({arguments})", ATOM
            case n.Symbol():
                return str(node), ATOM
        assert_never(node)

    def _of_order(
        self, op: str, node: n.Quantile | n.Order, x: n.Expr, argument: n.Expr | None = None
    ) -> Piece:
        with self._at_place(self._inside(node)):
            head = f"{op}[{self._binder(node)}]"
            if argument is None:
                return f"{head} {self.at(x, APPLY)}", APPLY
            return f"{head}({self.done[x][0]}, {self.done[argument][0]})", ATOM

    def _binder(self, node: n.Reduce | n.Quantile | n.Order) -> str:
        """The indices that a node runs over, and its condition."""
        return f"{','.join(node.over)}{self._condition(node)}"

    def _condition(self, node: n.Reduce | n.Peers | n.Quantile | n.Order) -> str:
        return "" if node.where is None else f" | {self.done[node.where][0]}"

    def _token_outside(self) -> str:
        """The name of the token that a running index is compared with."""
        return self.place.token

    def _peers(self, node: n.Peers) -> Piece:
        over, inside = [str(index) for index in node.over], self._inside(node)
        if node.relation and over[0] == "t":
            over[0] = f"{inside.token} {node.relation} {self._token_outside()}"
        elif node.relation:
            over[0] = f"{self._next(RESPONSES, HERE.response)} {node.relation} {HERE.response}"
        head = (", " if node.relation else ",").join(over)
        if node.keys:
            head += " by " + ", ".join(self.at(key, IF) for key in node.keys)
        with self._at_place(inside):
            return f"{node.op}[{head}{self._condition(node)}] {self.at(node.x, APPLY)}", APPLY

    def _infix(self, op: n.BinaryOp, a: n.Expr, b: n.Expr) -> Piece:
        sign, level = BINARY[op].sign, BINARY[op].level
        tight = op in ("sub", "div") or level == COMPARE
        least = level + (level in (COMPARE, POWER))
        left = self.at(a, ATOM if level in (TIMES, POWER) and self._open(a) else least)
        right = self.at(b, level + tight)
        if op == "pow":
            return f"{left}^{right}", level
        return f"{left} {sign} {right}", level

    def _count(self, over: Indices) -> Piece:
        count = COUNTS.get(over)
        if count is not None and count not in self.taken:
            return count, ATOM
        indices = ",".join(over)
        if COUNT in self.taken:
            return f"sum[{indices}] 1", APPLY
        return f"{COUNT}[{indices}]", ATOM

    def _bracketed(self, text: str) -> str:
        return f"({text})"

    def _symbol(self, name: str, indices: Indices) -> str:
        return name

    def _log(self, text: str) -> Piece:
        return f"log({text})", ATOM

    def _token(self, policy: str) -> str:
        return policy

    def _entry(self, policy: str) -> str:
        return f"{policy}[v]"

    def _quotient(self, above: Piece, below: Piece) -> Piece:
        return f"{self._held(above, TIMES)} / {self._held(below, TIMES + 1)}", TIMES

    def _times(self, left: Piece, right: Piece) -> Piece:
        return f"{self._held(left, TIMES)} * {self._held(right, TIMES)}", TIMES

    def _prod(self, over: Indices, body: Piece) -> Piece:
        return f"prod[{','.join(over)}] {self._held(body, APPLY)}", APPLY

    def _root(self, body: Piece, degree: n.Expr) -> Piece:
        return f"{self._held(body, ATOM)}^(1 / {self.at(degree, TIMES + 1)})", POWER

    def _power(self, body: Piece, exponent: n.Expr) -> Piece:
        return f"{self._held(body, ATOM)}^{self.at(exponent, POWER)}", POWER
