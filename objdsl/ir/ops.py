"""The operators, one row each: what they are called, what they compute, how they are written.

An operator is added here: a name in `UnaryOp`, `BinaryOp` or `ReduceOp`, and a row. The parser's
suggestions, the calculus, the interpreter, the bounds, the checker, the writers of text, LaTeX,
PyTorch and Triton, the syntax highlighting and the tables of `docs/language.md` read the row.
A name without a row, and a row without one of its cells, is an error when this module is imported.

A row's `value` is the meaning: in Python's floats, for every number, infinities and NaN among them.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir import interval
from objdsl.ir.build import (
    HALF,
    ONE,
    ZERO,
    add,
    both,
    const,
    count,
    div,
    exp,
    log,
    mul,
    neg,
    negation,
    power,
    real,
    sub,
    where,
)
from objdsl.ir.interval import ANY, Interval

# The precedence of a piece of text in the language, from the lowest.
IF, OR, AND, NOT, COMPARE, PLUS, TIMES, SIGN, POWER, APPLY, ATOM = range(11)

TINY = math.ulp(0.0)
"""The smallest number above 0."""


def float32(x: float) -> float:
    """A number rounded to float32, in which what is too large is infinite."""
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


# --- functions of one value ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UnaryRow:
    """A function of one value.

    Attributes:
        doc: what it is, for the table of functions; empty for one that is no function in a file.
        value: what it computes.
        slope: its derivative, of the operand and of the result; None if it has none, and is a
            constant where it is smooth.
        image: its range.
        rises: 1 if it never falls, -1 if it never rises, 0 if it does both.
        domain: where it is defined.
        kinks: where it has no derivative, though it has a value.
        attained: whether it reaches a 0 at the end of its range; `exp` does not.
        latex: of the operand, with how tightly the operand must hold together and the whole does.
        torch: of a tensor.
        triton: of a value; one that stands in it twice gets a name first.
        python: of a number, with where Python computes what float64 does; None if it never does.
    """

    doc: str
    value: Callable[[float], float]
    slope: Callable[[n.Expr, n.Expr], n.Expr] | None
    image: Interval
    rises: Literal[-1, 0, 1]
    domain: Interval = ANY
    kinks: tuple[float, ...] = ()
    attained: bool = True
    latex: tuple[str, int, int]
    torch: str
    triton: str
    python: tuple[str, Interval] | None

    def over(self, x: Interval) -> Interval:
        """The values on an interval."""
        low, high = x
        if self.rises < 0:
            low, high = high, low
        ends = [self._end(low, self.image[0]), self._end(high, self.image[1])]
        if self.rises or not (x[0] < 0 < x[1]):
            return min(ends), max(ends)
        return min(*ends, self.value(0.0)), max(*ends, self.value(0.0))

    def _end(self, x: float, otherwise: float) -> float:
        value = self.value(x)
        return otherwise if math.isnan(value) else value


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


def _log1p(x: float) -> float:
    return math.log1p(x) if x > -1 else -math.inf if x == -1 else math.nan


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


UNARY: dict[n.UnaryOp, UnaryRow] = {
    "neg": UnaryRow(
        doc="",
        value=lambda x: -x,
        slope=lambda x, y: const(-1),
        image=ANY,
        rises=-1,
        latex=("-{}", SIGN, SIGN),
        torch="-{}",
        triton="-{}",
        python=("-{}", ANY),
    ),
    "not": UnaryRow(
        doc="",
        value=lambda x: float(not x),
        slope=None,
        image=(0.0, 1.0),
        rises=-1,
        latex=(r"\neg {}", ATOM, NOT),
        torch="~{}",
        triton="~{}",
        python=("(not {})", ANY),
    ),
    "abs": UnaryRow(
        doc="the absolute value; its derivative at 0 is 0",
        value=abs,
        slope=lambda x, y: n.Unary("sign", x),
        image=(0.0, math.inf),
        rises=0,
        kinks=(0.0,),
        latex=(r"\left| {} \right|", IF, ATOM),
        torch="{}.abs()",
        triton="tl.abs({})",
        python=("abs({})", ANY),
    ),
    "exp": UnaryRow(
        doc="e to the power of x",
        value=_exp,
        slope=lambda x, y: y,
        image=(0.0, math.inf),
        rises=1,
        attained=False,
        latex=("e^{{{}}}", IF, POWER),
        torch="{}.exp()",
        triton="tl.exp({})",
        python=("math.exp({})", (-math.inf, math.log(sys.float_info.max) - 0.5)),
    ),
    "log": UnaryRow(
        doc="the natural logarithm",
        value=_log,
        slope=lambda x, y: div(ONE, x),
        image=ANY,
        rises=1,
        domain=(0.0, math.inf),
        kinks=(0.0,),
        latex=(r"\log {}", APPLY, APPLY),
        torch="{}.log()",
        triton="tl.log({})",
        python=("math.log({})", (TINY, math.inf)),
    ),
    "sqrt": UnaryRow(
        doc="the square root",
        value=lambda x: math.sqrt(x) if x >= 0 else math.nan,
        slope=lambda x, y: div(HALF, y),
        image=(0.0, math.inf),
        rises=1,
        domain=(0.0, math.inf),
        kinks=(0.0,),
        latex=(r"\sqrt{{{}}}", IF, ATOM),
        torch="{}.sqrt()",
        triton="tl.sqrt({})",
        python=("math.sqrt({})", (0.0, math.inf)),
    ),
    "sigmoid": UnaryRow(
        doc="1 / (1 + exp(-x))",
        value=_sigmoid,
        slope=lambda x, y: mul(y, sub(ONE, y)),
        image=(0.0, 1.0),
        rises=1,
        attained=False,
        latex=(r"\sigma\left( {} \right)", IF, APPLY),
        torch="{}.sigmoid()",
        triton="tl.sigmoid({})",
        python=None,
    ),
    "logsigmoid": UnaryRow(
        doc="log(sigmoid(x)), also where sigmoid(x) would be rounded to 0",
        value=lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))),
        slope=lambda x, y: unary("sigmoid", neg(x)),
        image=(-math.inf, 0.0),
        rises=1,
        attained=False,
        latex=(r"\log \sigma\left( {} \right)", IF, APPLY),
        torch="torch.nn.functional.logsigmoid({})",
        triton="log_sigmoid({})",
        python=None,
    ),
    "softplus": UnaryRow(
        doc="log(1 + exp(x)), also where exp(x) would be too large",
        value=lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
        slope=lambda x, y: unary("sigmoid", x),
        image=(0.0, math.inf),
        rises=1,
        attained=False,
        latex=(r"\operatorname{{softplus}}\left( {} \right)", IF, ATOM),
        torch="-torch.nn.functional.logsigmoid(-{})",
        triton="softplus({})",
        python=None,
    ),
    "log1p": UnaryRow(
        doc="log(1 + x), exact where x is near 0",
        value=_log1p,
        slope=lambda x, y: div(ONE, add(ONE, x)),
        image=ANY,
        rises=1,
        domain=(-1.0, math.inf),
        kinks=(-1.0,),
        latex=(r"\log\left( 1 + {} \right)", PLUS, APPLY),
        torch="{}.log1p()",
        triton="log1p({})",
        python=("math.log1p({})", (math.nextafter(-1.0, 0.0), math.inf)),
    ),
    "sign": UnaryRow(
        doc="-1, 0 or 1; without a gradient",
        value=lambda x: float((x > 0) - (x < 0)),
        slope=None,
        image=(-1.0, 1.0),
        rises=1,
        kinks=(0.0,),
        latex=(r"\operatorname{{sgn}}\left( {} \right)", IF, ATOM),
        torch="{}.sign()",
        triton="tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
        python=None,
    ),
    "floor": UnaryRow(
        doc="the largest whole number that is not above x, of data alone",
        value=lambda x: float(math.floor(x)) if math.isfinite(x) else x,
        slope=None,
        image=ANY,
        rises=1,
        latex=(r"\left\lfloor {} \right\rfloor", IF, ATOM),
        torch="{}.floor()",
        triton="tl.floor({})",
        python=("float(math.floor({}))", (-1e300, 1e300)),
    ),
}


def unary(op: n.UnaryOp, x: n.Expr) -> n.Expr:
    """A function of a value in its simplest form; that of a number is a number, if it is finite."""
    match op:
        case "neg":
            return neg(x)
        case "not":
            return negation(x)
        case "exp":
            return exp(x)
        case "log":
            return log(x)
    if isinstance(x, n.Const):
        value = UNARY[op].value(x.value)
        if math.isfinite(value) or math.isinf(x.value):
            return const(value)
    return n.Unary(op, x)


# --- functions of two values ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BinaryRow:
    """A function of two values.

    Attributes:
        sign: what stands between its operands in a file; empty for what is called, as `min` is.
        level: the precedence of the sign.
        value: what it computes.
        pull: of the operands, the result and the derivative by the result: the derivatives by the
            operands. None for what has none, and for `min` and `max`, which `differentiate` reads
            together with the clip beside them.
        over: the values on two intervals.
        latex: the sign in LaTeX, or its text of two operands.
        code: the sign in PyTorch and Triton, or its function of two tensors.
        python: the sign between numbers, or its function; empty if there is none.
    """

    sign: str
    level: int
    value: Callable[[float, float], float]
    pull: Callable[[n.Expr, n.Expr, n.Expr, n.Expr], tuple[n.Expr, n.Expr]] | None
    over: Callable[[Interval, Interval], Interval]
    latex: str
    code: str
    python: str


def _quotient(a: float, b: float) -> float:
    if b != 0:
        return a / b
    if a == 0 or math.isnan(a) or math.isnan(b):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _power(a: float, b: float) -> float:
    odd = b % 2 == 1 if math.isfinite(b) else False
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and odd else math.inf
    except ValueError:  # 0 to a negative power, or a root of what is negative
        return math.nan if a != 0 else math.copysign(math.inf, a) if odd else math.inf


def _min(a: float, b: float) -> float:
    return a if a <= b or math.isnan(a) else b


def _max(a: float, b: float) -> float:
    return a if a >= b or math.isnan(a) else b


def _choices(n: float, k: float) -> float:
    """How many sets of `k` there are of `n`; between whole numbers, by the gamma function."""
    if not (0 <= k <= n < math.inf):
        return math.nan if math.isnan(n + k) or n < 0 or n == math.inf else 0.0
    try:
        return math.comb(int(n), int(k)) * 1.0 if n == int(n) and k == int(k) else _binomial(n, k)
    except OverflowError:
        return math.inf


def _binomial(n: float, k: float) -> float:
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1))


def _choices_over(n: Interval, k: Interval) -> Interval:
    whole = k[0] >= 0 and k[1] <= n[0]
    return (1.0 if whole else 0.0), math.inf


def _compared(sign: str, latex: str, value: Callable[[float, float], bool]) -> BinaryRow:
    return BinaryRow(
        sign=sign,
        level=COMPARE,
        value=lambda a, b: float(value(a, b)),
        pull=None,
        over=lambda a, b: (0.0, 1.0),
        latex=latex,
        code=sign,
        python=sign,
    )


def _joined(sign: str, level: int, latex: str, code: str, most: bool) -> BinaryRow:
    return BinaryRow(
        sign=sign,
        level=level,
        value=lambda a, b: float(bool(a or b) if most else bool(a and b)),
        pull=None,
        over=lambda a, b: (0.0, 1.0),
        latex=latex,
        code=code,
        python=sign,
    )


BINARY: dict[n.BinaryOp, BinaryRow] = {
    "add": BinaryRow(
        sign="+",
        level=PLUS,
        value=lambda a, b: a + b,
        pull=lambda a, b, y, g: (g, g),
        over=interval.added,
        latex="+",
        code="+",
        python="+",
    ),
    "sub": BinaryRow(
        sign="-",
        level=PLUS,
        value=lambda a, b: a - b,
        pull=lambda a, b, y, g: (g, neg(g)),
        over=interval.subtracted,
        latex="-",
        code="-",
        python="-",
    ),
    "mul": BinaryRow(
        sign="*",
        level=TIMES,
        value=lambda a, b: a * b,
        pull=lambda a, b, y, g: (mul(g, b), mul(g, a)),
        over=interval.multiplied,
        latex=r"\,",
        code="*",
        python="*",
    ),
    "div": BinaryRow(
        sign="/",
        level=TIMES,
        value=_quotient,
        pull=lambda a, b, y, g: (div(g, b), neg(div(mul(g, y), b))),
        over=interval.divided,
        latex=r"\frac{{{}}}{{{}}}",
        code="/",
        python="/",
    ),
    "pow": BinaryRow(
        sign="^",
        level=POWER,
        value=_power,
        pull=lambda a, b, y, g: (
            mul(g, mul(b, power(a, sub(b, ONE)))),
            mul(g, mul(y, log(a))),
        ),
        over=interval.exponentiated,
        latex="{}^{{{}}}",
        code="**",
        python="**",
    ),
    "min": BinaryRow(
        sign="",
        level=ATOM,
        value=_min,
        pull=None,
        over=interval.smaller,
        latex=r"\min\left( {},\; {} \right)",
        code="minimum",
        python="min",
    ),
    "max": BinaryRow(
        sign="",
        level=ATOM,
        value=_max,
        pull=None,
        over=interval.larger,
        latex=r"\max\left( {},\; {} \right)",
        code="maximum",
        python="max",
    ),
    "comb": BinaryRow(
        sign="",
        level=ATOM,
        value=_choices,
        pull=None,
        over=_choices_over,
        latex=r"\binom{{{}}}{{{}}}",
        code="binomial",
        python="",
    ),
    "lt": _compared("<", "<", lambda a, b: a < b),
    "le": _compared("<=", r"\le", lambda a, b: a <= b),
    "gt": _compared(">", ">", lambda a, b: a > b),
    "ge": _compared(">=", r"\ge", lambda a, b: a >= b),
    "eq": _compared("==", "=", lambda a, b: a == b),
    "ne": _compared("!=", r"\ne", lambda a, b: a != b),
    "and": _joined("and", AND, r"\wedge", "&", most=False),
    "or": _joined("or", OR, r"\vee", "|", most=True),
}


# --- reductions ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReduceRow:
    """A reduction of many values to one.

    Attributes:
        value: what it computes of at least one value.
        empty: what it is of none.
        slope: the derivative by one of its values, as a function of the node.
        over: the values of a reduction of values on an interval.
        linear: whether it is a sum with weights that do not depend on the values.
        latex: the sign in front of what it reduces.
        torch: the method of a tensor, with a dimension; None for what `lower` computes by others.
        neutral: the number that changes nothing, in PyTorch.
    """

    value: Callable[[Sequence[float]], float]
    empty: float
    slope: Callable[[n.Reduce | n.Peers], n.Expr]
    over: Callable[[Interval], Interval]
    linear: bool
    latex: str
    torch: str | None
    neutral: str

    @property
    def method(self) -> str:
        """The method of a tensor, where one is written."""
        if self.torch is None:
            raise TypeError(f"torch has no method for {self.latex}: `lower` takes it apart")
        return self.torch


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the numbers, or infinities of both signs
        return sum(values)


def _mean(values: Sequence[float]) -> float:
    return _sum(values) / len(values)


def _log_sum_exp(values: Sequence[float]) -> float:
    most = max(values)
    if not math.isfinite(most):
        return math.nan if any(map(math.isnan, values)) else most
    return most + math.log(_sum([math.exp(x - most) for x in values]))


def _variance(values: Sequence[float], dof: int) -> float:
    mean = _mean(values)
    return _quotient(_sum([(x - mean) ** 2 for x in values]), dof)


def _extreme_slope(node: n.Reduce | n.Peers) -> n.Expr:
    """Elements that tie share the gradient evenly."""
    tie = n.Binary("eq", real(node.x), node.seen(node))
    ties = node.seen(_count(node, tie))
    return where(tie, div(ONE, ties), ZERO)


def _deviation_slope(node: n.Reduce | n.Peers) -> n.Expr:
    x, size = real(node.x), _count(node)
    dof = size if node.op == "pstd" else sub(size, ONE)
    centred = sub(x, node.seen(node.like("mean", x, node.where)))
    varies = node.seen(n.Binary("gt", node, ZERO))
    return where(varies, div(centred, node.seen(mul(dof, node))), ZERO)


def _product_slope(node: n.Reduce | n.Peers) -> n.Expr:
    """The derivative of a product: with one factor of 0 only that one has it; with two, none."""
    x = real(node.x)
    zero = n.Binary("eq", x, ZERO)
    zeros = _count(node, zero)
    others = node.seen(node.like("prod", where(zero, ONE, x), node.where))
    return where(
        zero,
        where(node.seen(n.Binary("eq", zeros, ONE)), others, ZERO),
        where(node.seen(n.Binary("eq", zeros, ZERO)), div(others, x), ZERO),
    )


def _count(node: n.Reduce | n.Peers, mask: n.Expr | None = None) -> n.Expr:
    """How many elements a reduction runs over, where a mask holds, too."""
    masks = [m for m in (node.where, mask) if m is not None]
    held = both(*masks) if len(masks) == 2 else masks[0] if masks else None
    if isinstance(node, n.Peers):
        return node.like("sum", ONE, held)
    return count(node.over, held)


def _product_over(a: Interval) -> Interval:
    if a[0] < 0:
        return ANY
    return (1.0 if a[0] >= 1 else 0.0), (1.0 if a[1] <= 1 else math.inf)


REDUCE: dict[n.ReduceOp, ReduceRow] = {
    "sum": ReduceRow(
        value=_sum,
        empty=0.0,
        slope=lambda node: ONE,
        over=interval.summed,
        linear=True,
        latex=r"\sum",
        torch="sum",
        neutral="0.0",
    ),
    "mean": ReduceRow(
        value=_mean,
        empty=0.0,
        # A finding about the divisor points at the mean that it belongs to.
        slope=lambda node: div(ONE, node.seen(replace(_count(node), span=node.span))),
        over=lambda a: a,
        linear=True,
        latex=r"\operatorname{mean}",
        torch="mean",
        neutral="0.0",
    ),
    "prod": ReduceRow(
        value=math.prod,
        empty=1.0,
        slope=_product_slope,
        over=_product_over,
        linear=False,
        latex=r"\prod",
        torch="prod",
        neutral="1.0",
    ),
    "max": ReduceRow(
        value=lambda values: math.nan if any(map(math.isnan, values)) else max(values),
        empty=0.0,
        slope=_extreme_slope,
        over=lambda a: a,
        linear=False,
        latex=r"\operatorname{max}",
        torch="amax",
        neutral="-torch.inf",
    ),
    "min": ReduceRow(
        value=lambda values: math.nan if any(map(math.isnan, values)) else min(values),
        empty=0.0,
        slope=_extreme_slope,
        over=lambda a: a,
        linear=False,
        latex=r"\operatorname{min}",
        torch="amin",
        neutral="torch.inf",
    ),
    "std": ReduceRow(
        value=lambda values: math.sqrt(_variance(values, len(values) - 1)),
        empty=0.0,
        slope=_deviation_slope,
        over=lambda a: (0.0, a[1] - a[0]),
        linear=False,
        latex=r"\operatorname{std}",
        torch=None,
        neutral="0.0",
    ),
    "pstd": ReduceRow(
        value=lambda values: math.sqrt(_variance(values, len(values))),
        empty=0.0,
        slope=_deviation_slope,
        over=lambda a: (0.0, a[1] - a[0]),
        linear=False,
        latex=r"\operatorname{pstd}",
        torch=None,
        neutral="0.0",
    ),
    "logsumexp": ReduceRow(
        value=_log_sum_exp,
        empty=-math.inf,
        slope=lambda node: exp(sub(real(node.x), node.seen(node))),
        over=lambda a: (a[0], math.inf),
        linear=False,
        latex=r"\operatorname{logsumexp}",
        torch=None,
        neutral="-torch.inf",
    ),
}


# --- order ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OrderRow:
    """What the order of elements says of each.

    Attributes:
        value: of an element of a pool, which is not empty and holds no NaN, and the argument.
        image: its range.
        argument: what the second argument is called; empty for one that has none.
        least, most: where that lies.
        torch: the function of the emitted module.
    """

    value: Callable[[Sequence[float], float, float], float]
    image: Interval
    argument: str = ""
    least: float = 0.0
    most: float = math.inf
    torch: str


def _share(pool: Sequence[float], x: float, at: float) -> float:
    """The part of an element in a quantile, of its equals all the same."""
    place = min(max(at, 0.0), 1.0) * (len(pool) - 1)
    first, rest = math.floor(place), place - math.floor(place)
    below, equal = sum(y < x for y in pool), sum(y == x for y in pool)
    parts = ((first, 1 - rest), (first + 1, rest))
    return sum(part for k, part in parts if below <= k < below + equal) / equal


def at_most(fraction: float, total: int) -> int:
    """How many of `total` elements a fraction is: rounded down, but for rounding noise."""
    return max(0, min(total, math.floor(float(fraction) * total + 1e-9)))


ORDER: dict[n.OrderOp, OrderRow] = {
    "top": OrderRow(
        value=lambda pool, x, at: sum(y >= x for y in pool) <= at_most(at, len(pool)),
        image=(0.0, 1.0),
        argument="fraction",
        most=1.0,
        torch="top_mask",
    ),
    "topk": OrderRow(
        value=lambda pool, x, at: sum(y >= x for y in pool) <= at + 1e-9,
        image=(0.0, 1.0),
        argument="count",
        torch="topk_mask",
    ),
    "nucleus": OrderRow(
        value=lambda pool, x, at: _sum([y for y in pool if y > x]) < at - 1e-9,
        image=(0.0, 1.0),
        argument="mass",
        most=1.0,
        torch="nucleus_mask",
    ),
    "trim": OrderRow(
        value=lambda pool, x, at: _mean([y for y in pool if y <= x]) <= at + 1e-9 * abs(at),
        image=(0.0, 1.0),
        argument="limit",
        least=-math.inf,
        torch="trim_mask",
    ),
    "rank": OrderRow(
        value=lambda pool, x, at: 1 + sum(y < x for y in pool),
        image=(1.0, math.inf),
        torch="rank",
    ),
    "share": OrderRow(
        value=_share,
        image=(0.0, 1.0),
        argument="fraction",
        most=1.0,
        torch="quantile_shares",
    ),
}


# --- views of the tables -------------------------------------------------------------------------

FUNCTIONS: dict[str, n.UnaryOp] = {op: op for op, row in UNARY.items() if row.doc}
"""The functions of one value that are called in a file."""
REDUCTIONS: dict[str, n.ReduceOp] = {op: op for op in REDUCE}
ORDERS: dict[str, n.OrderOp] = {op: op for op in ORDER if op != "share"}
"""The functions of an order that are written in a file."""
COUNT = "count"
"""The reduction that is a sum of ones: `count[t | m]`."""
SIGNS: dict[str, n.BinaryOp] = {row.sign: op for op, row in BINARY.items() if row.sign}
"""The operator that each sign of the language stands for."""
CALLED: tuple[n.BinaryOp, ...] = tuple(op for op, row in BINARY.items() if not row.sign)
"""The functions of two values."""


def _check() -> None:
    tables = (n.UnaryOp, UNARY), (n.BinaryOp, BINARY), (n.ReduceOp, REDUCE), (n.OrderOp, ORDER)
    for names, rows in tables:
        if set(get_args(names)) != set(rows):
            different = set(get_args(names)) ^ set(rows)
            raise TypeError(f"an operator has no row, or a row no name: {sorted(different)}")
    if {op for op in BINARY if BINARY[op].level == COMPARE} != n.COMPARISONS:
        raise TypeError("`COMPARISONS` are other operators than those that are written as such")


_check()
