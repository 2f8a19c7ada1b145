"""Formulas as sums of products: the form in which a gradient weight can be read factor by factor.

`(reward - mean[i] reward) / |y|` becomes `reward * |y|^-1 - G^-1 * (sum[i] reward) * |y|^-1`. A
factor is a node of the IR with a power; the exponential of a sum is a product of exponentials, so
ratios of policies are factors too: `pi / old` is `exp(log pi)^1 * exp(log old)^-1`, and where `old`
stands for `pi` nothing is left of it. Parameters are taken at their defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial, reduce
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.complements import joined
from objdsl.analysis.algebra.sums import (
    Factors,
    Sum,
    TooLargeError,
    above_zero,
    atom,
    bases_of,
    interval,
    is_sum,
    number,
    ordered,
    positive,
    product,
    quotient,
    size,
    to_power,
)
from objdsl.analysis.algebra.symbols import Ratio, log_ratio
from objdsl.ir.build import ONE, ZERO, const
from objdsl.ir.indices import Index, Indices
from objdsl.ir.ops import unary

# Where so many choices stand inside each other, both sides are expanded before one is chosen.
_DEEP = 16
GROUP: n.Expr = n.Reduce("sum", ("i",), ONE)
"""The number of responses to a prompt."""
PROMPTS: n.Expr = n.Reduce("sum", ("p",), ONE)
RESPONSES: n.Expr = n.Reduce("sum", ("p", "i"), ONE)

_SIZES: dict[Index, n.Expr] = {"t": n.Length(), "i": GROUP, "p": PROMPTS}

# The mask of the last token.
_LAST: n.Expr = n.Binary("eq", n.Position(), n.Length())


__all__ = [
    "GROUP", "PROMPTS", "RESPONSES", "Expand", "Factors", "Sum", "TooLargeError", "atom",
    "interval", "number", "ordered",
]  # fmt: skip


# What has not been expanded yet.
_UNKNOWN = Sum()

# How far a token is from the last one, downwards.
_TO_THE_LAST = atom(n.Position()) - atom(n.Length())


@dataclasses.dataclass
class Expand:
    """Formulas to sums of products.

    Args:
        params: the values of the parameters.
        same: policies to be taken for others, `{"old": "pi", "mu": "pi"}` for what holds on policy.
        apart: policies to be written by their distance to another, `{"ref": "pi"}`: `log ref` is
            then `log pi` plus their `LogRatio`.
        at: where branches are decided (`min`, `clip`, masks): another expansion, usually that on
            policy, so that what remains is right in a neighbourhood of it. Without one they are
            decided here.

    Attributes:
        origin: for a factor that was rewritten, the node of the formula that it came from.
    """

    params: Mapping[str, float]
    same: Mapping[str, str] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    at: Expand | None = None
    trained: frozenset[str] = frozenset({"pi"})
    origin: dict[n.Expr, n.Expr] = field(default_factory=dict)
    _known: dict[n.Expr, Sum | None] = field(default_factory=dict)
    _policies: dict[n.Expr, bool] = field(default_factory=dict)
    _depth: int = 0

    def __call__(self, expr: n.Expr) -> Sum:
        """Raises TooLargeError."""
        found = self._known.get(expr, _UNKNOWN)
        if found is _UNKNOWN:
            self._known[expr] = None  # unless it is found, too large once and for all
            found = self._find(expr)
        if found is None:
            raise TooLargeError
        return found

    def _find(self, expr: n.Expr) -> Sum | None:
        """Expands a formula, operands first, so that long chains need no deep recursion. None if it
        is too large."""
        known, stack = self._known, [expr]
        self._depth += 1
        while stack:
            node = stack[-1]
            try:
                if self.at is not None and not self._has_policy(node):
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

    def _has_policy(self, expr: n.Expr) -> bool:
        """Whether the versions of the policy, which are one `at`, have a part in a value."""
        known = self._policies

        def has(node: n.Expr) -> bool:
            own = isinstance(node, n.LogProb | n.LogDist | n.Symbol)
            return own or any(known[child] for child in node.children)

        return n.bottom_up(expr, known, has)

    def _atom(self, made: n.Expr, of: n.Expr, exponent: float = 1.0) -> Sum:
        affine = self._of_two_values(made, exponent)
        if affine is not None:
            return affine
        self._note(made, of)
        return atom(made, exponent)

    def _of_two_values(self, made: n.Expr, exponent: float) -> Sum | None:
        """Any function of a column that has two values, as the affine function of it that it is."""
        if not isinstance(made, n.Unary | n.Binary | n.Clip | n.Where) or len(made.indices) > 2:
            return None
        leaves = [node for node in n.topological(made) if not node.children]
        columns = {leaf for leaf in leaves if not isinstance(leaf, n.Const)}
        column = columns.pop() if len(columns) == 1 else None
        if not isinstance(column, n.Column) or len(set(column.values)) != 2:
            return None
        if any(isinstance(node, n.Reduce | n.Others) for node in n.topological(made)):
            return None
        low, high = sorted(set(column.values))
        values = [self(n.replaced(made, {column: const(x)})).number for x in (low, high)]
        if None in values or (exponent < 0 and 0.0 in values):
            return None
        at_low, at_high = (to_power(x, exponent) for x in values)  # type: ignore[arg-type]
        rise = (at_high - at_low) / (high - low)
        return number(at_low - rise * low) + atom(column).scaled(rise)

    def _note(self, made: n.Expr, of: n.Expr) -> None:
        """Keeps where a factor comes from: of several nodes, the first that stands in the text."""
        known = self.origin.get(made)
        if known is None or (known.span is None and of.span is not None):
            self.origin[made] = of

    def _expand(self, node: n.Expr) -> Sum:
        if node.boolean:
            return self._mask(node)
        match node:
            case n.Const(value):
                return number(value)
            case n.Param(name):
                return number(self.params[name])
            case n.LogProb(policy) | n.LogDist(policy):
                name = self.same.get(policy, self.apart.get(policy, policy))
                known = atom(type(node)(name, name in self.trained))
                ratio = Ratio(policy, name)
                return known + atom(log_ratio(node, ratio)) if policy in self.apart else known
            case n.Column() | n.Length() | n.Position() | n.Symbol():
                return atom(node)
            case n.Stop(x):
                return self(x)
            case n.Unary("sqrt", n.Binary("pow", x, n.Const(2.0))) | n.Binary(
                "pow", n.Binary("pow", x, n.Const(2.0)), n.Const(0.5)
            ):
                return self._unary("abs", self(x), node)
            case n.Unary("sqrt", n.Binary("mul", x, y)) | n.Binary(
                "pow", n.Binary("mul", x, y), n.Const(0.5)
            ) if x == y:
                return self._unary("abs", self(x), node)
            case n.Unary(op, x):
                return self._unary(op, self(x), node)
            case n.Binary("min" | "max" as op, a, b):
                return self._extremum(op, a, b, node)
            case n.Binary(op, a, b):
                return self._binary(op, self(a), self(b), node)
            case n.Clip(x, lo, hi):
                return self._clip(x, lo, hi, node)
            case n.Where(m, a, b):
                return self._where(m, a, b, node)
            case n.Reduce():
                return self._reduce(node)
            case n.Others(op, x):
                return self._others(op, self(x), node)
            case n.Scan():
                return self._scan(node)
            case n.Shift(x, by):
                inner = self(x)
                return self._linear(inner, "t", lambda f: atom(n.Shift(f, by)), node)
            case n.Top() | n.Pick():
                return self._mask(node)
        assert_never(node)

    # --- element by element ----------------------------------------------------------------------

    def _unary(self, op: n.UnaryOp, x: Sum, node: n.Expr) -> Sum:
        value = x.number
        match op:
            case "neg":
                return -x
            case "exp":
                return self._exp(x, node)
            case "log":
                return self._log(x, node)
            case "sqrt":
                return self._power(x, 0.5, node)
        if value is not None:
            folded = unary(op, const(value))
            if isinstance(folded, n.Const):
                return number(folded.value)
        if op == "abs":
            low, high = interval(x)
            if low >= 0:
                return x
            if high <= 0:
                return -x
        if op == "sign":
            low, high = interval(x)
            if low > 0 or high < 0:
                return number(1.0 if low > 0 else -1.0)
            quantity, turned = _compared(x)
            return self._atom(n.Unary("sign", quantity), node).scaled(-1.0 if turned else 1.0)
        return self._atom(n.Unary(op, x.expr()), node)

    def _exp(self, x: Sum, node: n.Expr) -> Sum:
        result = number(1)
        for factors, c in x.terms.items():
            if not factors:
                result = result.scaled(math.exp(min(c, 700.0)))
            else:
                base = product(factors, 1.0)
                if isinstance(base, n.Unary) and base.op == "log":
                    result = self._times(result, self._power(self(base.x), c, node))
                else:
                    result = result * self._atom(n.Unary("exp", base), node, c)
        return result

    def _log(self, x: Sum, node: n.Expr) -> Sum:
        only = x.product
        if only is None or only[1] <= 0:
            return self._atom(n.Unary("log", x.expr()), node)
        result = number(math.log(only[1]))
        for base, exponent in ordered(only[0]):
            if isinstance(base, n.Unary) and base.op == "exp":
                result = result + self(base.x).scaled(exponent)
            else:
                result = result + self._atom(n.Unary("log", base), node).scaled(exponent)
        return result

    def _binary(self, op: str, a: Sum, b: Sum, node: n.Expr) -> Sum:
        match op:
            case "add":
                return joined(a + b, self)
            case "sub":
                return joined(a - b, self)
            case "mul":
                return joined(self._times(a, b), self)
            case "div":
                divisor = node.b if isinstance(node, n.Binary) else node
                whole, rest = quotient(a, b)
                return whole + rest * self._power(b, -1.0, divisor) if rest.terms else whole
            case "pow":
                exponent = b.number
                if exponent is not None:
                    return self._power(a, exponent, node)
                only = a.product
                if only is not None and only[1] > 0:
                    return self._exp(b * self._log(a, node), node)
                return self._atom(n.Binary("pow", a.expr(), b.expr()), node)
        raise TypeError(f"no expansion of {op}")

    def _times(self, a: Sum, b: Sum) -> Sum:
        """A product, with sums that stand on both sides of its line cancelled and not multiplied
        out: `a / (s + 1) * (s + 1)` is `a`."""
        if not any(map(is_sum, bases_of(a))) and not any(map(is_sum, bases_of(b))):
            return a * b
        for x, y in ((a, b), (b, a)):
            if len(y.terms) < 2:
                continue
            scale = size(y)
            for sign in (scale, -scale):
                base = y.scaled(1 / sign).expr()
                below = {f: c for f, c in x.terms.items() if dict(f).get(base, 0.0) < 0}
                if below:
                    rest = Sum({f: c for f, c in x.terms.items() if f not in below})
                    return (Sum(below) * atom(base)).scaled(sign) + self._times(rest, y)
        return self._multiplied(a * b)

    def _multiplied(self, x: Sum) -> Sum:
        """A sum in which powers of sums have become sums again, as roots that make a whole."""
        result = Sum()
        for factors, c in x.terms.items():
            whole = [(b, e) for b, e in ordered(factors) if is_sum(b) and e in (1, 2, 3, 4)]
            term = Sum({factors.difference(whole): c})
            for base, e in whole:
                for _ in range(int(e)):
                    term = term * self(base)
            result = result + term
        return result

    def reduced(self, x: Sum) -> Sum:
        """A sum whose terms are divided by sums as far as they can be: `(a G - a) / (G - 1)`."""
        for base in sorted({b for b in bases_of(x) if is_sum(b)}, key=lambda base: base.key):
            powers: dict[float, dict[Factors, float]] = {}
            for factors, c in x.terms.items():
                e = dict(factors).get(base, 0.0)
                powers.setdefault(e, {})[factors - {(base, e)}] = c
            carried = Sum()
            for e in sorted(e for e in powers if e <= -1):
                above = Sum(powers.pop(e)) + (carried if carried.terms else Sum())
                carried, rest = quotient(above, self(base))
                powers[e] = dict(rest.terms)
                if carried.terms:
                    known = Sum(powers.pop(e + 1, {}))
                    powers[e + 1] = dict((known + carried).terms)
                    carried = Sum()
            x = Sum()
            for e, terms in powers.items():
                x = x + (Sum(terms) * atom(base, e) if e else Sum(terms))
        return x

    def _power(self, x: Sum, exponent: float, node: n.Expr) -> Sum:
        value, only = x.number, x.product
        if exponent == 1:
            return x
        if exponent == 0:
            return number(1)
        if value is not None:
            if value > 0 or (value < 0 and exponent == int(exponent)):
                return number(to_power(value, exponent))
            return number(0) if exponent > 0 else self._atom(ZERO, node, exponent)
        whole = exponent == int(exponent)
        if only is not None and (whole or all(positive(base) for base, _ in only[0])):
            factors, c = only
            if (whole or c > 0) and not any(base.boolean for base, _ in factors):
                raised = frozenset((b, e * exponent) for b, e in factors)
                return Sum({raised: to_power(c, exponent)})
        if whole and 1 < exponent <= 4:
            return reduce(lambda y, _: y * x, range(int(exponent) - 1), x)
        # A sum keeps its own size, so that equal ones cancel: 2a + 2b is 2 (a + b).
        scale = size(x)
        return self._atom(x.scaled(1 / scale).expr(), node, exponent).scaled(
            to_power(scale, exponent)
        )

    # --- branches --------------------------------------------------------------------------------

    def _mask(self, node: n.Expr) -> Sum:
        match node:
            case n.Unary("not", x):
                return number(1) - self(x)
            case n.Binary("and", a, b):
                return self(a) * self(b)
            case n.Binary("or", a, b):
                p, q = self(a), self(b)
                return p + q - p * q
            case n.Where(m, a, b):
                chosen = self(m)
                return chosen * self(a) + (number(1) - chosen) * self(b)
            case n.Stop(x):
                return self(x)
            case _ if _is_last(node):
                return self._atom(_LAST, node)
            case n.Binary(op, a, b):
                return self._compare(op, a, b, node)
            case n.Top(over, x, fraction):
                x = self._inner(x)
                tie = self.at is None and set(over).isdisjoint(x.indices)
                if tie and interval(self(fraction))[1] < 1:
                    return Sum()  # of elements that tie where the largest end, none belongs to them
                made: n.Expr = n.Top(over, x, self._inner(fraction))
            case n.Pick(over, m, fraction):
                made = n.Pick(over, self._mask_expr(m), self._inner(fraction))
            case _:
                made = node
        return self._atom(made, node)

    def _compare(self, op: str, a: n.Expr, b: n.Expr, node: n.Expr) -> Sum:
        if self.at is not None and ((self.at(a) - self.at(b)).terms or self(a) == self(b)):
            # Strict there, so it is decided alike all around; at a tie it may go either way.
            return self.at(node)
        if op in ("gt", "ge"):
            return self._compare("lt" if op == "gt" else "le", b, a, node)
        if op == "ne":
            return number(1) - self._compare("eq", a, b, node)
        difference = self(a) - self(b)
        if op in ("lt", "le") and difference == _TO_THE_LAST:
            return number(1) if op == "le" else number(1) - self(_LAST)
        low, high = interval(difference)
        if op == "lt" and (high < 0 or low >= 0):
            return number(float(high < 0))
        if op == "le" and (high <= 0 or low > 0):
            return number(float(high <= 0))
        if op == "eq" and (low > 0 or high < 0 or low == high == 0):
            return number(float(low == high == 0))
        indicator = _indicator(op, difference)
        if indicator is not None:
            return indicator
        # All comparisons of a quantity with 0 are made of two masks that exclude each other.
        quantity, turned = _compared(difference)
        below = self._atom(n.Binary("gt" if turned else "lt", quantity, ZERO), node)
        above = self._atom(n.Binary("lt" if turned else "gt", quantity, ZERO), node)
        if op == "lt":
            return below
        if op == "eq" and (low >= 0 or high <= 0):
            return number(1) - (above if low >= 0 else below)
        return number(1) - above if op == "le" else number(1) - above - below

    def _extremum(self, op: str, a: n.Expr, b: n.Expr, node: n.Expr) -> Sum:
        never = n.Const(math.inf if op == "min" else -math.inf)
        if never in (a, b):
            return self(b if a == never else a)
        decide = self.at or self
        low, high = interval(decide(a) - decide(b))
        if high < 0 or low > 0:
            return self(a if (high < 0) == (op == "min") else b)
        p, q = self(a), self(b)
        if p == q:
            return p
        if self.at is None and (high <= 0 or low >= 0):
            return p if (high <= 0) == (op == "min") else q
        return self._atom(n.Binary(op, p.expr(), q.expr()), node)  # type: ignore[arg-type]

    def _clip(self, x: n.Expr, lo: n.Expr, hi: n.Expr, node: n.Expr) -> Sum:
        if hi == n.Const(math.inf):
            return self._extremum("max", x, lo, node)
        if lo == n.Const(-math.inf):
            return self._extremum("min", x, hi, node)
        decide = self.at or self
        value, low, high = decide(x), decide(lo), decide(hi)
        inside = interval(value - low)[0], interval(high - value)[0]
        # At a tie around which policies move, it may go either way.
        moves = self.at is not None and self(x) != value
        if min(inside) > 0 or (min(inside) >= 0 and not moves):
            return self(x)
        if interval(value - low)[1] < 0:
            return self(lo)
        if interval(value - high)[0] > 0:
            return self(hi)
        made = n.Clip(self._inner(x), self._inner(lo), self._inner(hi))
        return self._atom(made, node)

    def _where(self, m: n.Expr, a: n.Expr, b: n.Expr, node: n.Expr) -> Sum:
        mask = self(m)
        if mask.number is not None:
            return self(a if mask.number else b)
        p, q = self(a), self(b)
        if p == q:
            return p
        if p.number and q.number:
            # One of two numbers, `tau_pos if A > 0 else tau_neg`, is one factor: it may cancel.
            sides = const(p.number), const(q.number)
            match mask.product, (number(1) - mask).product:
                case (factors, 1.0), _ if len(factors) == 1:
                    ((m, _),) = factors
                case _, (factors, 1.0) if len(factors) == 1:
                    ((m, _),) = factors
                    sides = sides[::-1]
                case _:
                    m = self._mask_expr(m)
            return self._atom(n.Where(m, *sides), node)
        return q + mask * (p - q)

    # --- along indices ---------------------------------------------------------------------------

    def _reduce(self, node: n.Reduce) -> Sum:
        x = self(node.x)
        mask = None if node.where is None else self(node.where)
        match node.op:
            case "sum":
                return self._sum(node.over, x if mask is None else mask * x, node)
            case "mean":
                ones = number(1) if mask is None else mask
                total = self._sum(node.over, ones * x, node)
                return total * self._power(self._sum(node.over, ones, node), -1.0, node)
        if node.op != "prod" and mask is None:
            return self._spread(node, x)
        where = None if mask is None else self._mask_expr(node.where)
        return self._atom(n.Reduce(node.op, node.over, x.expr(), where), node)

    def _spread(self, node: n.Reduce, x: Sum) -> Sum:
        """An extremum or a deviation: what is the same everywhere is added to the one, and is no
        part of the other."""
        over = set(node.over)
        moving = {f: c for f, c in x.terms.items() if any(over & set(b.indices) for b, _ in f)}
        fixed = Sum({f: c for f, c in x.terms.items() if f not in moving})
        rest = Sum() if node.op in ("std", "pstd") else fixed
        if not moving:
            return rest
        if node.op == "max" and "t" in over and moving == atom(n.Position()).terms:
            return rest + self._atom(n.Length(), node)
        return rest + self._atom(n.Reduce(node.op, node.over, Sum(moving).expr()), node)

    def _sum(self, over: Indices, x: Sum, node: n.Expr) -> Sum:
        for index in reversed(over):
            x = self._linear(x, index, partial(_total, index), node)
        return x

    def _others(self, op: str, x: Sum, node: n.Expr) -> Sum:
        rest = atom(GROUP) - number(1)

        def others(f: n.Expr) -> Sum:
            if f == ONE:
                return number(1) if op == "mean" else rest
            if isinstance(f, n.Others):  # the own is one of the others of each
                share = self._power(rest, -1.0, node) if op == "mean" else rest
                own = self(f.x) * share if op == f.op else self(f.x)
                left = (rest - number(1)) * atom(f)
                return own + (left * share if op == "mean" else left)
            return atom(n.Others(op, f))  # type: ignore[arg-type]

        return self._linear(x, "i", others, node)

    def _scan(self, node: n.Scan) -> Sum:
        decay = number(1) if node.decay is None else self(node.decay)
        rate = decay.number

        def scan(f: n.Expr) -> Sum:
            if rate == 0 and node.relation in (">=", "<="):
                return self(f)
            if node.relation == ">=" and rate is not None:
                if rate == 1 and _is_last(f):
                    return number(1)
                if isinstance(f, n.Shift) and f.by == 1:
                    # sum[s >= t] g^(s-t) x_(s+1) is what the sum of x has after its first term.
                    return (scan(f.x) - self(f.x)).scaled(1 / rate)
            if rate == 1 and f == ONE and node.relation in ("<", "<="):
                return atom(n.Position()) - number(float(node.relation == "<"))
            keep = None if rate == 1 else decay.expr()
            return atom(n.Scan(node.relation, f, keep))

        return self._linear(self(node.x), "t", scan, node)

    def _linear(self, x: Sum, index: Index, apply: Callable[[n.Expr], Sum], node: n.Expr) -> Sum:
        """A linear operation along an index, with what does not vary along it in front."""
        result = Sum()
        for factors, c in x.terms.items():
            fixed = frozenset(one for one in factors if index not in one[0].indices)
            applied = apply(product(factors - fixed, 1.0))
            for made in bases_of(applied):
                self._note(made, node)
            result = result + applied * Sum({fixed: c})
        return result

    def _inner(self, x: n.Expr) -> n.Expr:
        return self(x).expr()

    def _mask_expr(self, m: n.Expr | None) -> n.Expr:
        """A mask whose comparisons are expanded; still a mask."""
        match m:
            case n.Unary("not", x):
                return n.Unary("not", self._mask_expr(x))
            case n.Binary("and" | "or" as op, a, b):
                return n.Binary(op, self._mask_expr(a), self._mask_expr(b))
            case n.Binary(op, a, b):
                return n.Binary(op, self._inner(a), self._inner(b))
            case n.Stop(x):
                return self._mask_expr(x)
        assert m is not None
        return m


def _decides(node: n.Expr) -> bool:
    """Whether a node may leave some of its operands out of sight."""
    if isinstance(node, n.Binary):
        return node.boolean or node.op in ("min", "max")
    return isinstance(node, n.Clip | n.Where | n.Top | n.Pick)


def _total(index: Index, f: n.Expr) -> Sum:
    """`sum[index] f`, of a product all of whose factors vary along the index."""
    if index == "v" and isinstance(f, n.Unary) and f.op == "exp" and isinstance(f.x, n.LogDist):
        return number(1)
    if index == "t" and _is_last(f):
        return number(1)
    if f == ONE and index in _SIZES:
        return atom(_SIZES[index])
    if index == "p" and f == GROUP:
        return atom(RESPONSES)
    if index == "i" and isinstance(f, n.Others):  # each is one of the others of all others
        whole = atom(n.Reduce("sum", ("i",), f.x))
        return whole if f.op == "mean" else whole * (atom(GROUP) - number(1))
    return atom(n.Reduce("sum", (index,), f))


def _is_last(node: n.Expr) -> bool:
    """Whether it is the mask `t == |y|`."""
    match node:
        case n.Where(mask, one, zero) if one == ONE and zero == ZERO:
            return _is_last(mask)
        case n.Binary("eq" | "ge", n.Position(), n.Length()) | n.Binary(
            "eq" | "le", n.Length(), n.Position()
        ):
            return True
    return False


def _compared(x: Sum) -> tuple[n.Expr, bool]:
    """What has the sign of `x`, written alike for all its multiples; and whether it is turned."""
    shared = frozenset.intersection(*x.terms)
    positive = frozenset((base, e) for base, e in shared if above_zero(base))
    terms = {factors - positive: c for factors, c in x.terms.items()}
    first = min(terms, key=lambda factors: [(base.key, e) for base, e in ordered(factors)])
    scale = terms[first]
    return Sum({f: round(c / scale, 12) for f, c in terms.items()}).expr(), scale < 0


def _indicator(op: str, difference: Sum) -> Sum | None:
    """A comparison with a number of a column that has two values: `reward == 1` is an affine
    function of the reward."""
    columns = {
        base
        for factors in difference.terms
        for base, e in factors
        if isinstance(base, n.Column) and len(set(base.values)) == 2 and e == 1
    }
    if len(columns) != 1:
        return None
    (column,) = columns
    slope = difference.terms.get(frozenset({(column, 1.0)}))
    rest = difference - atom(column).scaled(slope or 0.0)
    if slope is None or rest.number is None:
        return None

    def holds(x: float) -> float:
        value = slope * x + rest.number  # type: ignore[operator]
        return float(value == 0 if op == "eq" else value <= 0 if op == "le" else value < 0)

    low, high = sorted(set(column.values))
    rise = (holds(high) - holds(low)) / (high - low)
    return number(holds(low) - rise * low) + atom(column).scaled(rise)
