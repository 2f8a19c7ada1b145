"""Constructors that keep formulas simple. They change how a formula is written, never its value;
where no rule of a constructor applies, it builds the node that it is named after.

Two conventions make the weights of an objective readable, and the analyses over them short:

- probabilities stay in log space: `exp(a) * exp(b)` becomes `exp(a + b)`, `log(exp(a))` is `a`, and
  a quotient by a mean of probabilities of responses is a difference of logarithms;
- a product has its sign in front, the sizes that it is divided by at the end, and its masks around
  the rest: `-where(m, a * b, 0) / (G * |y|)`. Other quotients stay as they were written.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, reduce

import objdsl.ir.nodes as n
from objdsl.ir.indices import Indices, over_to, remove, union

# At most this many factors of a product are examined; those of papers have ten. The work for a
# long chain then grows with the chain, not with its square.
_MOST_FACTORS = 32

_LARGEST_EXPONENT = 709.0

ZERO: n.Expr = n.Const(0.0)
ONE: n.Expr = n.Const(1.0)
HALF: n.Expr = n.Const(0.5)


@cache
def const(value: float) -> n.Const:
    return n.Const(float(value))


def neg(x: n.Expr) -> n.Expr:
    match x:
        case n.Const(value):
            return replace(x, value=-value)
        case n.Unary("neg", inner):
            return inner
        case n.Binary("sub", a, b):
            return sub(b, a)
    return n.Unary("neg", x)


def add(a: n.Expr, b: n.Expr) -> n.Expr:
    match a, b:
        case n.Const(p), n.Const(q):
            return const(p + q)
        case _, n.Unary("neg", inner):
            return sub(a, inner)
        case n.Unary("neg", inner), _:
            return sub(b, inner)
        case n.Binary("div", p, c), n.Binary("div", q, d) if c == d:
            return div(add(p, q), c)
    if a == ZERO:
        return b
    if b == ZERO:
        return a
    return n.Binary("add", a, b)


def sub(a: n.Expr, b: n.Expr) -> n.Expr:
    match a, b:
        case n.Const(p), n.Const(q):
            return const(p - q)
        case _, n.Unary("neg", inner):
            return add(a, inner)
        case n.Unary("neg", inner), _:
            return neg(add(inner, b))
        case n.Binary("div", p, c), n.Binary("div", q, d) if c == d:
            return div(sub(p, q), c)
    if a == ZERO:
        return neg(b)
    if b == ZERO:
        return a
    if a == b:
        return ZERO
    return n.Binary("sub", a, b)


def mul(a: n.Expr, b: n.Expr) -> n.Expr:
    if a.boolean and b.boolean:
        return both(a, b)
    if a.boolean:
        return where(a, b, ZERO)
    if b.boolean:
        return where(b, a, ZERO)
    if is_size(a) and is_size(b):
        return _sizes(a, b)
    match a, b:
        case n.Const(value), _ if value in (0.0, 1.0, -1.0):
            return ZERO if value == 0 else b if value == 1 else neg(b)
        case _, n.Const(value) if value in (0.0, 1.0, -1.0):
            return ZERO if value == 0 else a if value == 1 else neg(a)
        case n.Where(m, x, z), _ if z == ZERO:
            return where(m, mul(x, b), ZERO)
        case _, n.Where(m, x, z) if z == ZERO:
            return where(m, mul(a, x), ZERO)
        case n.Unary("neg", x), _:
            return neg(mul(x, b))
        case _, n.Unary("neg", x):
            return neg(mul(a, x))
        case n.Unary("exp", x), n.Unary("exp", y):
            return exp(add(x, y))
        case n.Binary("div", p, c), _ if is_size(c):
            return div(mul(p, b), c)
        case _, n.Binary("div", q, d) if is_size(d) or q == ONE:
            return div(mul(a, q), d)
    return n.Binary("mul", a, b)


def div(a: n.Expr, b: n.Expr) -> n.Expr:
    match a, b:
        case n.Const(p), n.Const(q) if q != 0:
            return const(p / q)
        case _, n.Const(1.0):
            return a
        case n.Where(m, x, z), _ if z == ZERO and not is_divisor(b):
            return where(m, div(x, b), ZERO)
        case n.Unary("neg", x), _:
            return neg(div(x, b))
        case n.Unary("exp", x), n.Unary("exp", y):
            return exp(sub(x, y))
        case n.Binary("mul", n.Unary("exp", x), rest), n.Unary("exp", y):
            return mul(exp(sub(x, y)), rest)
        case n.Binary("mul", rest, n.Unary("exp", x)), n.Unary("exp", y):
            return mul(rest, exp(sub(x, y)))
        case n.Binary("div", p, c), _ if is_size(c) and is_size(b):
            return div(p, mul(c, b))
        case n.Binary("div", p, c), _ if is_size(c):
            return div(div(p, b), c)
    if a == ZERO and b != ZERO:
        return ZERO
    if a.boolean:
        return where(a, div(ONE, b), ZERO)
    if (below := log_total(b)) is not None:
        above = log_total(a)
        return div(a if above is None else exp(above), replace(exp(below), span=b.span))
    return n.Binary("div", a, b)


def log_total(x: n.Expr) -> n.Expr | None:
    """The logarithm of a sum or mean of probabilities of whole responses, each of which underflows
    to 0; None for other values."""
    match x:
        case n.Stop(inner) if (total := log_total(inner)) is not None:
            return stop(total)
        case n.Reduce("sum" | "mean" as op, over, n.Unary("exp", y), mask) if is_product(y):
            total = n.Reduce("logsumexp", over, y, mask, span=x.span)
            return total if op == "sum" else sub(total, log(count(over, mask)))
    return None


def is_product(x: n.Expr) -> bool:
    """Whether `exp(x)` is a product over the tokens of a response, possibly times other factors."""
    match x:
        case n.Reduce("sum", ("t",), _, _):
            return True
        case n.Binary("add" | "sub" | "mul" | "div", a, b):
            return is_product(a) or is_product(b)
        case n.Unary("neg", a) | n.Stop(a):
            return is_product(a)
    return False


def power(a: n.Expr, b: n.Expr) -> n.Expr:
    match a, b:
        case n.Const(p), n.Const(q) if p > 0:
            try:
                return const(p**q)
            except OverflowError:
                return const(math.inf)
        case _, n.Const(1.0):
            return a
        case _, n.Const(0.0):
            return ONE
        case n.Unary("exp", x), _:
            return exp(mul(x, b))
    return n.Binary("pow", a, b)


def exp(x: n.Expr) -> n.Expr:
    match x:
        case n.Const(value) if value < _LARGEST_EXPONENT:
            return const(math.exp(value))
    return n.Unary("exp", x)


def log(x: n.Expr) -> n.Expr:
    match x:
        case n.Unary("exp", inner):
            return inner
        case n.Binary("mul", a, b) if isinstance(a, n.Unary) and a.op == "exp":
            return add(a.x, log(b))
        case n.Binary("mul", a, b) if isinstance(b, n.Unary) and b.op == "exp":
            return add(log(a), b.x)
        case n.Const(value) if value > 0:
            return const(math.log(value))
    total = log_total(x)
    return n.Unary("log", x) if total is None else total


def negation(m: n.Expr) -> n.Expr:
    return m.x if isinstance(m, n.Unary) and m.op == "not" else n.Unary("not", m)


def both(a: n.Expr, b: n.Expr) -> n.Expr:
    return a if a == b else n.Binary("and", a, b)


def where(m: n.Expr, a: n.Expr, b: n.Expr) -> n.Expr:
    if a == b:
        return a
    if a == ZERO and not b.boolean:
        return where(negation(m), b, ZERO)
    if isinstance(a, n.Unary) and a.op == "neg" and b == ZERO:
        return neg(where(m, a.x, ZERO))
    match a:
        case n.Where(inner, x, z) if z == ZERO and b == ZERO:
            return where(both(m, inner), x, ZERO)
        case n.Binary("div", x, d) if b == ZERO and is_divisor(d):
            return div(where(m, x, ZERO), d)
    if a.boolean and not b.boolean:
        a = n.Where(a, ONE, ZERO)
    if b.boolean and not a.boolean:
        b = n.Where(b, ONE, ZERO)
    return n.Where(m, a, b)


def stop(x: n.Expr) -> n.Expr:
    """`sg(x)`. A value without a gradient needs none; a probability stays in log space."""
    if not x.live:
        return x
    return exp(n.Stop(x.x)) if isinstance(x, n.Unary) and x.op == "exp" else n.Stop(x)


def real(x: n.Expr) -> n.Expr:
    """A mask as a number, 1 where it holds."""
    return n.Where(x, ONE, ZERO) if x.boolean else x


def is_size(x: n.Expr) -> bool:
    """Whether a divisor is made of numbers, parameters, lengths and sizes, and never of data.

    A product of very many factors is treated as any other value.
    """
    for _ in range(_MOST_FACTORS):
        match x:
            case n.Binary("mul", a, b) if is_size(b):
                x = a  # a long product is a chain to the left
            case n.Const() | n.Param() | n.Length():
                return True
            case n.Reduce("sum", _, inner, None):
                return inner == ONE
            case _:
                return False
    return False


def is_divisor(x: n.Expr) -> bool:
    """Whether it is a size that is never 0: a division by it needs no mask around it."""
    return is_size(x) and not any(
        part.value == 0 if isinstance(part, n.Const) else part.lower <= 0 <= part.upper
        for part in factors(x)[1]
        if isinstance(part, n.Const | n.Param)
    )


def _sizes(a: n.Expr, b: n.Expr) -> n.Expr:
    """A product of sizes, in one fixed order: equal divisors are then equal formulas."""
    parts = [*factors(a)[1], *factors(b)[1]]
    number = math.prod(part.value for part in parts if isinstance(part, n.Const))
    rest: list[n.Expr] = [part for part in parts if not isinstance(part, n.Const)]
    rest.sort(key=lambda part: (len(part.indices), part.key))
    if number == 0:
        return ZERO
    if number != 1 or not rest:
        rest.insert(0, const(number))
    return reduce(lambda x, y: n.Binary("mul", x, y), rest)


def gather(a: n.Expr, b: n.Expr) -> n.Expr:
    """`a + b`, with their common factors in front."""
    match a, b:  # of what is alike on the face of it, long products are not taken apart
        case _ if a == b:
            return mul(a, const(2))
        case n.Binary("div", x, c), n.Binary("div", y, d) if c == d:
            return div(gather(x, y), c)
        case n.Binary("mul", x, u), _ if x == b:
            return mul(x, add(u, ONE))
        case _, n.Binary("mul", y, v) if y == a:
            return mul(y, add(ONE, v))
        case n.Binary("mul", x, u), n.Binary("mul", y, v) if x == y:
            return mul(x, gather(u, v))
    (p, a_above, a_below), (q, b_above, b_below) = factors(a), factors(b)
    if max(len(a_above) + len(a_below), len(b_above) + len(b_below)) > _MOST_FACTORS:
        return add(a, b)
    common, below = _take_common(a_above, b_above), _take_common(a_below, b_below)
    if not common and not below:
        return add(a, b)
    inner = add(product(a_above, a_below, p), product(b_above, b_below, q))
    return div(mul(product(common, []), inner), product(below, []))


def _take_common(a: list[n.Expr], b: list[n.Expr]) -> list[n.Expr]:
    """Removes the common elements from both lists, and returns them."""
    common = []
    for f in tuple(a):
        if f in b:
            common.append(f)
            a.remove(f)
            b.remove(f)
    return common


def count(over: Indices, mask: n.Expr | None = None) -> n.Expr:
    """The number of elements along `over` where the mask holds."""
    if over == ("t",) and mask is None:
        return n.Length()
    return n.Reduce("sum", over, ONE, mask)


def others(op: n.ReduceOp, x: n.Expr) -> n.Peers:
    """`op[j != i] x`: over the other responses to the same prompt."""
    return n.Peers(op, ("i",), x, relation="!=")


def factors(x: n.Expr) -> tuple[bool, list[n.Expr], list[n.Expr]]:
    """A product as (whether it is negative, its factors, its divisors).

    Of a product of very many factors, the rest stays in one piece.
    """
    negative = False
    above: list[n.Expr] = []
    below: list[n.Expr] = []
    stack = [(x, True)]
    while stack:
        node, up = stack.pop()
        match node:
            case _ if len(above) + len(below) + len(stack) > _MOST_FACTORS:
                (above if up else below).append(node)
            case n.Unary("neg", inner):
                negative = not negative
                stack.append((inner, up))
            case n.Binary("mul", a, b):
                stack += [(b, up), (a, up)]
            case n.Binary("div", a, b):
                stack += [(b, not up), (a, up)]
            case _ if node != ONE:
                (above if up else below).append(node)
    return negative, above, below


def product(above: list[n.Expr], below: list[n.Expr], negative: bool = False) -> n.Expr:
    """The inverse of `factors`."""
    result = div(reduce(mul, above, ONE), reduce(mul, below, ONE))
    return neg(result) if negative else result


def sum_over(over: Indices, x: n.Expr) -> n.Expr:
    """`sum[over] x`, with the factors that do not vary along `over` in front of the sum.

    `x` may lack some of the indices: it then counts once for every element.
    """
    if not over or x == ZERO:
        return x
    match x:
        case n.Where(m, a, b) if b == ZERO and not set(over) & set(m.indices):
            return where(m, sum_over(over, a), ZERO)
    negative, above, below = factors(x)
    outer = remove(union(x.indices, over_to(over)), over)
    fixed_above = [f for f in above if len(f.indices) <= len(outer)]
    fixed_below = [f for f in below if len(f.indices) <= len(outer)]
    varying = product(
        [f for f in above if len(f.indices) > len(outer)],
        [f for f in below if len(f.indices) > len(outer)],
    )
    total = count(over) if varying == ONE else n.Reduce("sum", over, varying)
    return product([*fixed_above, total], fixed_below, negative)
