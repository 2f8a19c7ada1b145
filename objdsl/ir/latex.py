"""Formulas in LaTeX, as papers print them."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.ir.build import HALF, ONE, ZERO
from objdsl.ir.indices import Indices, decimal
from objdsl.ir.ops import (
    APPLY,
    ATOM,
    BINARY,
    CALLED,
    COMPARE,
    PLUS,
    POWER,
    REDUCE,
    SIGN,
    TIMES,
    UNARY,
)
from objdsl.ir.writer import HERE, RESPONSES, Construct, Names, Piece, Place, Writer

GREEK = {
    "alpha", "beta", "gamma", "delta", "eta", "kappa", "rho", "sigma", "tau", "theta", "phi",
    "omega", "mu", "pi", "nu", "xi", "Delta",
}  # fmt: skip
POLICY = {
    "pi": r"\pi_\theta",
    "old": r"\pi_{\mathrm{old}}",
    "ref": r"\pi_{\mathrm{ref}}",
    "mu": r"\mu",
}
_TEX = {
    "\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim ",
    **{char: f"\\{char}" for char in "_{}$&#%"},
}  # fmt: skip


def latex(expr: n.Expr, names: Names | None = None) -> str:
    """A formula in LaTeX."""
    return Latex(names or {}, (expr,)).show(expr)


class Latex(Writer):
    """Writes formulas in LaTeX."""

    def definition(self, x: n.Expr) -> str:
        """The right-hand side of a definition: a mask, which may be an equation itself, is written
        with an indicator."""
        return _indicator(self.show(x)) if x.boolean else self.show(x)

    def _inside(self, node: n.Expr) -> Place:
        match node:
            case n.Scan():
                return self._beside()
            case n.Peers(_, over):
                place = self._beside() if "t" in over else self.place
                response = self._next(RESPONSES, place.response) if "i" in over else place.response
                return replace(place, response=response)
            case n.Reduce() | n.Quantile() if _is_of_group(node):
                # A statistic of the group: its index is not the present response.
                return replace(self.place, response=self._next(RESPONSES, self.place.response))
            case n.Reduce(_, over) | n.Quantile(over) if "i" in over:
                return HERE if "t" in over else replace(self.place, response=HERE.response)
            case n.Reduce(_, over) | n.Quantile(over) if "t" in over:
                return replace(self.place, token=HERE.token)
        return self.place

    def _construct(self, node: Construct) -> Piece:
        match node:
            case n.Const(value):
                if value != value:
                    return r"\mathrm{NaN}", ATOM
                if value in (float("inf"), float("-inf")):
                    return (r"\infty", ATOM) if value > 0 else (r"-\infty", SIGN)
                return _scientific(value), ATOM if value >= 0 else SIGN
            case n.Length():
                return self.place.length, ATOM
            case n.Unary(op, x):
                template, level, whole = UNARY[op].latex
                return template.format(self.at(x, level)), whole
            case n.Binary(op, a, b) if op in (*CALLED, "div"):
                return BINARY[op].latex.format(self.done[a][0], self.done[b][0]), ATOM
            case n.Binary("pow", a, b):
                return BINARY["pow"].latex.format(self.at(a, ATOM), self.done[b][0]), POWER
            case n.Binary(op, a, b):
                return self._infix(op, a, b)
            case n.Clip(x, lo, hi):
                arguments = ",\\; ".join(self.done[part][0] for part in (x, lo, hi))
                return rf"\operatorname{{clip}}\left( {arguments} \right)", ATOM
            case n.Where(m, a, b) if b == ZERO:
                gate = _indicator(self.done[m][0])
                return (rf"{gate} \, {self.at(a, TIMES)}", TIMES) if a != ONE else (gate, ATOM)
            case n.Where(m, a, b):
                rows = (
                    rf"{self.done[a][0]} & {self.done[m][0]} \\ {self.done[b][0]} & \text{{else}}"
                )
                return rf"\begin{{cases}} {rows} \end{{cases}}", ATOM
            case n.Stop(x):
                return rf"\operatorname{{sg}}\left[ {self.done[x][0]} \right]", ATOM
            case n.Peers():
                return self._peers(node)
            case n.Present(x):
                with self._at_place(self.outside):
                    return self.done[x]
            case n.Scan(relation, x, decay):
                sign = {"<": "<", ">": ">", "<=": r"\le", ">=": r"\ge"}[relation]
                t, inside, factor = self.place.token, self._inside(node), ""
                s = inside.token
                if decay is not None and "t" not in decay.indices:
                    factor = rf"{self.at(decay, ATOM)}^{{|{s}-{t}|}} \, "
                elif decay is not None:
                    u = self._further(inside)
                    first, last = (t, s) if relation in (">", ">=") else (s, t)
                    with self._at_place(u):
                        g = self.at(decay, TIMES)
                    product = rf"\prod_{{{u.token}={first}}}^{{{last}-1}} {g}"
                    factor = rf"{self._bracketed(product)} \, "
                with self._at_place(inside):
                    body = self.at(x, TIMES)
                return rf"\sum_{{{s} {sign} {t}}} {factor}{body}", APPLY
            case n.Shift(x, by):
                return rf"{self.at(x, ATOM)}\Big|_{{{self.place.token}{by:+d}}}", ATOM
            case n.Quantile(_, x, at):
                inside = self._inside(node)
                with self._at_place(inside):
                    letters = self._binder(node, inside)
                    if at == HALF:
                        return self._function("median", letters, x), ATOM
                    return self._function("quantile", letters, x, at), ATOM
            case n.Order(op, _, x, at):
                parts = [part for part in (x, at) if part is not None]
                return self._function(op, self._binder(node, self.place), *parts), ATOM
            case n.Pick(over, m, fraction):
                return self._function("pick", ",".join(over), m, fraction), ATOM
            case n.Reduce():
                return self._reduce(node)
            case n.Symbol():
                return rf"\text{{{node}}}", ATOM
        assert_never(node)

    def _peers(self, node: n.Peers) -> Piece:
        """A sum over the others, or over the elements that share keys, with a condition that
        compares these."""
        here, inside = self.place, self._inside(node)
        outside, self.outside = self.outside, here
        letters = {"p": ("x'", "x"), "i": (inside.response, here.response)}
        letters["t"] = (inside.token, here.token)
        running = ",".join(letters[index][0] for index in node.over)
        conditions = []
        if node.relation:
            sign = {"!=": r"\ne", "<=": r"\le", ">=": r"\ge"}.get(node.relation, node.relation)
            first, present = letters[node.over[0]]
            running = f"{first} {sign} {present}" + running[len(first) :]
        keys = [self.at(key, PLUS) for key in node.keys]
        with self._at_place(inside):
            whole, body = self.done[node.x][0], self.at(node.x, TIMES)
            for key, value in zip(node.keys, keys, strict=True):
                conditions.append(f"{self.at(key, PLUS)} = {value}")
            if node.where is not None:
                conditions.append(self.done[node.where][0])
        self.outside = outside
        if node.others and node.op in ("sum", "mean"):
            front = rf"\frac{{1}}{{{self._letter('i', 'G')} - 1}} " if node.op == "mean" else ""
            return rf"{front}\sum_{{{running}}} {body}", APPLY
        below = r" \,:\, ".join(filter(None, (running, r",\; ".join(conditions))))
        name = rf"{REDUCE[node.op].latex}_{{{below}}}"
        if node.op == "sum":
            return f"{name} {body}", APPLY
        return rf"{name}\left( {whole} \right)", ATOM

    def _infix(self, op: n.BinaryOp, a: n.Expr, b: n.Expr) -> Piece:
        level = BINARY[op].level
        tight = level in (PLUS, COMPARE)
        left = self.at(a, ATOM if level == TIMES and self._open(a) else level)
        return f"{left} {BINARY[op].latex} {self.at(b, level + tight)}", level

    def _reduce(self, node: n.Reduce) -> Piece:
        x, over, mask = node.x, node.over, node.where
        inside = self._inside(node)
        with self._at_place(inside):
            whole, body = self.done[x][0], self.at(x, TIMES)
            condition = self.done[mask][0] if mask is not None else ""
        if mask is not None:
            if node.op == "mean" and over == ("p",):
                return rf"\mathbb{{E}}_{{x \sim \mathcal{{D}} \,:\, {condition}}} {body}", APPLY
            return rf"{REDUCE[node.op].latex}_{{{','.join(over)} \,:\, {condition}}} {body}", APPLY
        if _is_of_group(node):
            name = rf"{REDUCE[node.op].latex}_{{{inside.response}}}"
            return rf"{name}\left( {whole} \right)", ATOM
        match node.op:
            case "sum":
                return f"{self._sums(over)} {body}", APPLY
            case "mean" if over == ("p",):
                return rf"\mathbb{{E}}_{{x \sim \mathcal{{D}}}} {body}", APPLY
            case "mean":
                return rf"\frac{{1}}{{{self._size(over)}}} {self._sums(over)} {body}", APPLY
            case "prod":
                return f"{self._sums(over, 'prod')} {body}", APPLY
        return rf"{REDUCE[node.op].latex}_{{{','.join(over)}}} {body}", APPLY

    def _function(self, name: str, letters: str, *operands: n.Expr) -> str:
        """`top_{i,t}(x, f)`: a value that the order of elements decides."""
        parts = r",\; ".join(self.done[part][0] for part in operands)
        return rf"\operatorname{{{name}}}_{{{letters}}}\left( {parts} \right)"

    def _binder(self, node: n.Quantile | n.Order, inside: Place) -> str:
        """The indices that a quantile or an order runs over, and its condition."""
        letters = inside.response if _is_of_group(node) else ",".join(node.over)
        where = rf" \,:\, {self.done[node.where][0]}" if node.where is not None else ""
        return letters + where

    def _count(self, over: Indices) -> Piece:
        return self._size(over), ATOM if len(over) == 1 else APPLY

    def _size(self, over: Indices) -> str:
        """The number of elements."""
        match over:
            case ("p",):
                return self._letter("x", "P")
            case ("i",):
                return self._letter("i", "G")
            case ("p", "i"):
                return self._letter("(x, i)", "N")
            case ("t",):
                return self.place.length
            case ("v",):
                return r"|\mathcal{V}|"
            case (*outer, "t"):
                return f"{self._sums(tuple(outer))} {HERE.length}"
        return "n"

    def _sums(self, over: Indices, sign: str = "sum") -> str:
        """`\\sum` over the elements of each index in turn."""
        length = HERE.length if "i" in over else self.place.length
        ranges = {
            "p": "_{x}",
            "i": rf"_{{i=1}}^{{{self._letter('i', 'G')}}}",
            "t": rf"_{{t=1}}^{{{length}}}",
            "v": r"_{v \in \mathcal{V}}",
        }
        return " ".join(rf"\{sign}{ranges[index]}" for index in over)

    def _letter(self, index: str, letter: str) -> str:
        """The letter for a count, unless it is a name of the file."""
        return letter if letter not in self.taken else rf"\#{index}"

    def _bracketed(self, text: str) -> str:
        return rf"\left( {text} \right)"

    def _symbol(self, name: str, indices: Indices) -> str:
        if name == "reward" and "R" not in self.taken:
            return f"R_{self.place.response}"
        return symbol(name, self.place.subscripts(indices))

    def _log(self, text: str) -> Piece:
        return rf"\log {text}", APPLY

    def _token(self, policy: str) -> str:
        i, t = self.place.response, self.place.token
        return rf"{_policy(policy)}(y_{{{i},{t}}} \mid x, y_{{{i},<{t}}})"

    def _entry(self, policy: str) -> str:
        i, t = self.place.response, self.place.token
        return rf"{_policy(policy)}(v \mid x, y_{{{i},<{t}}})"

    def _quotient(self, above: Piece, below: Piece) -> Piece:
        return rf"\frac{{{above[0]}}}{{{below[0]}}}", ATOM

    def _times(self, left: Piece, right: Piece) -> Piece:
        return rf"{left[0]} \, {right[0]}", TIMES

    def _prod(self, over: Indices, body: Piece) -> Piece:
        return f"{self._sums(over, 'prod')} {body[0]}", APPLY

    def _root(self, body: Piece, degree: n.Expr) -> Piece:
        return rf"{self._bracketed(body[0])}^{{1 / {self.at(degree, ATOM)}}}", POWER

    def _power(self, body: Piece, exponent: n.Expr) -> Piece:
        return rf"{self._bracketed(body[0])}^{{{self.done[exponent][0]}}}", POWER


def symbol(name: str, below: str = "") -> str:
    """A name as a mathematical symbol: `eps_low` is `\\varepsilon_{\\mathrm{low}}`.

    With the indices that its value carries, as papers write them: `A_i`, `r_{i,t}`.
    """
    head, _, tail = name.partition("_")
    if not head or (not tail and head != name):
        head, tail = _roman(name), ""
    elif head == "eps":
        head = r"\varepsilon"
    elif head == "lam":
        head = r"\lambda"
    elif head in GREEK:
        head = "\\" + head
    elif len(head) > 1 or not head.isalpha():
        head = _roman(head)
    subscript = ",".join(part for part in (_roman(tail) if tail else "", below) if part)
    return head + (f"_{{{subscript}}}" if subscript else "")


def _roman(text: str) -> str:
    """A word in upright letters, as plain text to TeX."""
    return rf"\mathrm{{{''.join(_TEX.get(char, char) for char in text)}}}"


def _is_of_group(node: n.Reduce | n.Quantile | n.Order) -> bool:
    """Whether a node is a statistic of the responses to a prompt, whose index is known."""
    is_plain = node.over == ("i",) and node.where is None and not node.current
    return is_plain and not (isinstance(node, n.Reduce) and node.op == "sum")


def _policy(name: str) -> str:
    return POLICY.get(name) or rf"\pi_{{{_roman(name)}}}"


def _scientific(value: float) -> str:
    plain = decimal(value)
    if "e" not in plain and (value == 0 or abs(value) >= 1e-2):
        return plain
    exact = f"{value:e}" if float(f"{value:e}") == value else f"{value:.16e}"
    digits, exponent = exact.split("e")
    digits = digits.rstrip("0").rstrip(".")
    front = "" if digits == "1" else rf"{digits} \cdot "
    return rf"{front}10^{{{int(exponent)}}}"


def _indicator(condition: str) -> str:
    return rf"\mathbb{{1}}\left[ {condition} \right]"
