"""The calculus: from an objective J to its weights, `w = dJ / dlog pi`, as formulas.

Reverse accumulation over the graph of J. Every rule is the one that torch applies: a tie of `min`
or `max` is shared evenly, a clip passes the gradient on its closed interval, the derivative of
`abs` at 0 is 0, a comparison has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from objdsl.ir.bounds import bounds, finite
from objdsl.ir.build import (
    HALF,
    ONE,
    ZERO,
    both,
    factors,
    gather,
    mul,
    negation,
    product,
    sub,
    sum_over,
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
from objdsl.ir.ops import BINARY, REDUCE, UNARY

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
        case Unary(op, x) if (slope := UNARY[op].slope) is not None:
            (derivative,) = _asked(g, [mul(g, slope(x, node))], lambda: [slope(x, node)])
            return [(x, derivative, here)]
        case Binary("min" | "max"):
            return [(x, d, here) for x, d in _pull_extremum(node, g)]
        case Binary(op, a, b) if (pull := BINARY[op].pull) is not None:
            derivatives = _asked(g, pull(a, b, node, g), lambda: pull(a, b, node, ONE))
            return [(x, d, here) for x, d in zip((a, b), derivatives, strict=True)]
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
        case Reduce(op, over, x, mask):
            along = union(here + over, x.indices, mask.indices if mask else ())
            derivative = mul(g, REDUCE[op].slope(node))
            return [(x, where(mask, derivative, ZERO) if mask else derivative, along)]
        case Others(op, x):
            return [(x, Others(op, g), here)]
        case Scan(relation, x, decay):
            return [(x, Scan(_FLIPPED[relation], g, decay), here)]
        case Shift(x, by):
            return [(x, Shift(g, -by), here)]
    raise TypeError(f"no derivative rule for {type(node).__name__}")


def _asked(
    g: Expr, derivatives: Sequence[Expr], slopes: Callable[[], Sequence[Expr]]
) -> Sequence[Expr]:
    """Derivatives `g * slope`, 0 where `g` is 0 because nobody asks there, be the slope infinite or
    undefined."""
    mask = None if isinstance(g, Where) else _support(g, _MOST_MASKS)
    if mask is None:
        return derivatives
    pairs = zip(derivatives, slopes(), strict=True)
    return [d if finite(slope) else where(mask, d, ZERO) for d, slope in pairs]


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
