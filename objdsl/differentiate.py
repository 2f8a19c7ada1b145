"""The calculus: from an objective J to its weights, `w = dJ / dlog pi`, as formulas.

Reverse accumulation over the graph of J. Every rule is the one that torch applies: a tie of `min`
or `max` is shared evenly, a clip passes the gradient on its closed interval, the derivative of
`abs` at 0 is 0, a comparison has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from objdsl.ir.bounds import bounds, finite
from objdsl.ir.build import (
    HALF,
    ONE,
    ZERO,
    both,
    const,
    count,
    div,
    factors,
    gather,
    mul,
    neg,
    negation,
    power,
    product,
    real,
    sub,
    sum_over,
    unary,
    where,
)
from objdsl.ir.indices import Indices, remove, union
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Column,
    Expr,
    LogDist,
    LogProb,
    Others,
    Reduce,
    Scan,
    ScanRelation,
    Shift,
    Unary,
    Where,
    topological,
)
from objdsl.ir.objective import Objective

Leaf = LogProb | LogDist | Column
Contribution = tuple[Expr, Expr, Indices]
"""An operand, the derivative by it, and the indices along which the derivative was taken."""

_MOST_MASKS = 12  # of a sum of derivatives, whose masks are joined

_FLIPPED: dict[ScanRelation, ScanRelation] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def weights_of(objective: Objective) -> dict[Leaf, Expr]:
    """The derivative of what is maximised (J minus the critic's loss) by every trained leaf."""
    goal, critic = objective.goal, objective.critic
    return differentiate(goal if critic is None else sub(goal, critic))


def differentiate(objective: Expr) -> dict[Leaf, Expr]:
    """The derivative of a scalar by every trained leaf that it depends on.

    The result maps each leaf (`log pi`, its full distribution, `V`, a policy on an inner layer) to
    a formula with the indices of that leaf, or fewer where it does not vary.
    """
    adjoint: dict[Expr, Expr] = {objective: ONE}
    weights: dict[Leaf, Expr] = {}
    for node in reversed(topological(objective)):
        if not node.live or node not in adjoint:
            continue
        if isinstance(node, LogProb | LogDist | Column):
            weights[node] = adjoint[node]
            continue
        for operand, derivative, along in _pull(node, adjoint[node]):
            if not operand.live or derivative == ZERO:
                continue
            extra = remove(along, operand.indices)
            term = sum_over(extra, derivative)
            adjoint[operand] = gather(adjoint[operand], term) if operand in adjoint else term
    return dict(sorted(weights.items(), key=lambda item: repr(item[0])))


def partials(node: Unary | Binary) -> list[tuple[Expr, Expr]]:
    """The operands of a function of one or two values, each with the derivative by it."""
    return [(operand, derivative) for operand, derivative, _ in _pull(node, ONE)]


def _pull(node: Expr, g: Expr) -> list[Contribution]:
    """What `g`, the derivative by `node`, contributes to each operand of `node`."""
    here = node.indices
    match node:
        case Unary(op, x):
            return [(x, _times(g, _slope(op, x, node)), here)]
        case Binary("min" | "max"):
            return [(x, d, here) for x, d in _pull_extremum(node, g)]
        case Binary(op, a, b):
            return [(x, d, here) for x, d in _pull_binary(op, a, b, node, g)]
        case Clip(x, lo, hi):
            inside = both(Binary("ge", x, lo), Binary("le", x, hi))
            proper = Binary("lt", lo, hi)
            crossed = Binary("or", Binary("gt", x, hi), Binary("gt", lo, hi))
            return [
                (x, where(inside, g, ZERO), here),
                (lo, where(both(Binary("lt", x, lo), proper), g, ZERO), here),
                (hi, where(crossed, g, ZERO), here),
            ]
        case Where(m, a, b):
            return [(a, where(m, g, ZERO), here), (b, where(m, ZERO, g), here)]
        case Reduce(_, over, x, mask):
            along = union(here + over, x.indices, mask.indices if mask else ())
            derivative = mul(g, _reduction_slope(node))
            return [(x, where(mask, derivative, ZERO) if mask else derivative, along)]
        case Others(op, x):
            return [(x, Others(op, g), here)]
        case Scan(relation, x, decay):
            return [(x, Scan(_FLIPPED[relation], g, decay), here)]
        case Shift(x, by):
            return [(x, Shift(g, -by), here)]
    raise TypeError(f"no derivative rule for {type(node).__name__}")


def _slope(op: str, x: Expr, y: Expr) -> Expr:
    """dy/dx of `y = op(x)`."""
    match op:
        case "neg":
            return const(-1)
        case "exp":
            return y
        case "log":
            return div(ONE, x)
        case "sqrt":
            return div(HALF, y)
        case "abs":
            return unary("sign", x)
        case "sigmoid":
            return mul(y, sub(ONE, y))
        case "logsigmoid":
            return unary("sigmoid", neg(x))
    raise TypeError(f"no derivative rule for {op}")


def _pull_binary(op: str, a: Expr, b: Expr, y: Expr, g: Expr) -> list[tuple[Expr, Expr]]:
    match op:
        case "add":
            return [(a, g), (b, g)]
        case "sub":
            return [(a, g), (b, neg(g))]
        case "mul":
            return [(a, _times(g, b)), (b, _times(g, a))]
        case "div":
            return [(a, _over(g, b)), (b, neg(_over(_times(g, y), b)))]
        case "pow":
            return [
                (a, _times(g, mul(b, power(a, sub(b, ONE))))),
                (b, _times(g, mul(y, unary("log", a)))),
            ]
    raise TypeError(f"no derivative rule for {op}")


def _times(g: Expr, slope: Expr) -> Expr:
    """`g * slope`; 0 where `g` is 0 because nobody asks there, be the slope infinite or none."""
    return _asked(g, slope, mul(g, slope))


def _over(g: Expr, x: Expr) -> Expr:
    """The same of `g / x`."""
    return _asked(g, Binary("div", ONE, x), div(g, x))


def _asked(g: Expr, slope: Expr, result: Expr) -> Expr:
    mask = None if isinstance(g, Where) else _support(g, _MOST_MASKS)
    return result if mask is None or finite(slope) else where(mask, result, ZERO)


def _support(g: Expr, most: int) -> Expr | None:
    """Where the masks of a derivative let anything through; None if that is everywhere, or takes
    `most` steps to say."""
    match g:
        case _ if most == 0:
            return None
        case Where(m, _, b) if b == ZERO:
            return m
        case Unary("neg", a) | Binary("div" | "mul", a, _):
            return _support(a, most - 1)
        case Binary("add" | "sub", a, b):
            q = _support(b, most - 1)
            p = None if q is None else _support(a, most - 1)
            if p is None or q is None or p == negation(q):
                return None
            return p if p == q else Binary("or", p, q)
    return None


def _pull_extremum(y: Binary, g: Expr) -> list[tuple[Expr, Expr]]:
    gated = clipped_surrogate(y)
    if gated is not None:
        x, slope, active = gated
        return [(x, where(active, mul(g, slope), ZERO))]
    # The mask stands around all that is multiplied: what overflows where it does not hold is never
    # looked at. A finding about what is left out points at the extremum that leaves it out.
    shared = where(Binary("eq", y.a, y.b, span=y.span), mul(g, HALF), g)
    a_op: Literal["le", "ge"]
    b_op: Literal["le", "ge"]
    a_op, b_op = ("le", "ge") if y.op == "min" else ("ge", "le")
    return [
        (y.a, where(Binary(a_op, y.a, y.b, span=y.span), shared, ZERO)),
        (y.b, where(Binary(b_op, y.a, y.b, span=y.span), shared, ZERO)),
    ]


def clipped_surrogate(y: Binary) -> tuple[Expr, Expr, Expr] | None:
    """The pair `min(x * f, clip(x, lo, hi) * f)`, as (x, f, where the gradient passes).

    Where x is inside its bounds both sides tie, and the two halves add up to the whole; outside,
    one side is constant. So the gradient is f everywhere but where the clip wins: for `min`, at
    x > hi if f > 0 and at x < lo if f < 0. This is exact if lo <= hi, which must be proven.
    """
    for plain, clipped in ((y.a, y.b), (y.b, y.a)):
        negative, above, below = factors(clipped)
        for k, clip in enumerate(above):
            if not isinstance(clip, Clip) or clip.lo.live or clip.hi.live:
                continue
            if not bounds(clip.lo)[1] <= bounds(clip.hi)[0]:
                continue
            rest = [*above[:k], *above[k + 1 :]]
            f = product(rest, below, negative)
            if f.live or not _same_product(plain, clip.x, rest, below, negative):
                continue
            up: Literal["lt", "gt"]
            down: Literal["lt", "gt"]
            up, down = ("gt", "lt") if y.op == "min" else ("lt", "gt")
            wins = Binary(
                "or",
                both(_against_zero(up, f), Binary("gt", clip.x, clip.hi)),
                both(_against_zero(down, f), Binary("lt", clip.x, clip.lo)),
            )
            return clip.x, f, negation(wins)
    return None


def _against_zero(op: Literal["lt", "gt"], x: Expr) -> Expr:
    """`x < 0` or `x > 0`, without a minus sign."""
    match x:
        case Unary("neg", inner):
            return Binary("gt" if op == "lt" else "lt", inner, ZERO)
    return Binary(op, x, ZERO)


def _same_product(
    plain: Expr, x: Expr, rest: list[Expr], below: list[Expr], negative: bool
) -> bool:
    """Whether `plain` is `x` times the factors of the clipped side, in any order."""
    sign, plain_above, plain_below = factors(plain)
    x_sign, x_above, x_below = factors(x)
    return (
        (sign != negative) == x_sign
        and _bag(plain_above) == _bag([*x_above, *rest])
        and _bag(plain_below) == _bag([*x_below, *below])
    )


def _bag(many: list[Expr]) -> list[bytes]:
    return sorted(expr.key for expr in many)


def _reduction_slope(node: Reduce) -> Expr:
    """The derivative of a reduction by one of the elements that it runs over."""
    x, over, mask = real(node.x), node.over, node.where
    match node.op:
        case "sum":
            return ONE
        case "mean":
            # A finding about the divisor points at the mean that brings it.
            return div(ONE, replace(count(over, mask), span=node.span))
        case "max" | "min":
            tie = Binary("eq", x, node)
            ties = count(over, both(mask, tie) if mask else tie)
            return where(tie, div(ONE, ties), ZERO)
        case "std" | "pstd":
            n = count(over, mask)
            dof = n if node.op == "pstd" else sub(n, ONE)
            centred = sub(x, Reduce("mean", over, x, mask))
            return where(Binary("gt", node, ZERO), div(centred, mul(dof, node)), ZERO)
        case "prod":
            # Of a product with a zero factor only that factor has a derivative.
            zero = Binary("eq", x, ZERO)
            zeros = count(over, both(mask, zero) if mask else zero)
            others = Reduce("prod", over, where(zero, ONE, x), mask)
            return where(
                zero,
                where(Binary("eq", zeros, ONE), others, ZERO),
                where(Binary("eq", zeros, ZERO), div(others, x), ZERO),
            )
    raise TypeError(f"no derivative rule for {node.op}")
