"""The calculus: from an objective J to its weights, `w = dJ / dlog pi`, as formulas.

Reverse accumulation over the graph of J. Every rule is the one that torch applies: a tie of `min`
or `max` is shared evenly, a clip passes the gradient on its closed interval, the derivative of
`abs` at 0 is 0, a comparison has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, assert_never

import objdsl.ir.nodes as n
from objdsl.ir.bounds import bounds, finite
from objdsl.ir.build import (
    HALF,
    ONE,
    ZERO,
    both,
    factors,
    gather,
    mul,
    neg,
    negation,
    product,
    sub,
    sum_over,
    where,
)
from objdsl.ir.indices import Indices, over_to, remove, union
from objdsl.ir.objective import Objective
from objdsl.ir.ops import BINARY, REDUCE, UNARY

Leaf = n.LogProb | n.LogDist | n.Column
Contribution = tuple[n.Expr, n.Expr, Indices]
"""An operand, the derivative by it, and the indices along which the derivative was taken."""

_MOST_MASKS = 12  # of a sum of derivatives, whose masks are joined

_FLIPPED: dict[n.ScanRelation, n.ScanRelation] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SEEN_FROM: dict[n.Relation, n.Relation] = {
    "": "", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<=",
}  # fmt: skip


def weights_of(objective: Objective) -> dict[Leaf, n.Expr]:
    """The derivative of what is maximised with respect to every trained leaf: of J minus the
    critic's loss, or, for learned numbers with a goal of their own, of minus what they minimise."""
    goal, critic, dual = objective.goal, objective.critic, objective.dual
    weights = differentiate(goal if critic is None else sub(goal, critic))
    if dual is not None:
        downhill = {leaf: w for leaf, w in differentiate(neg(dual)).items() if is_learned(leaf)}
        weights = {leaf: w for leaf, w in weights.items() if leaf not in downhill} | downhill
    return weights


def is_learned(leaf: Leaf) -> bool:
    """Whether a trained leaf is a number that is learned beside the policy."""
    return isinstance(leaf, n.Column) and leaf.role == "learned"


def differentiate(objective: n.Expr) -> dict[Leaf, n.Expr]:
    """The derivative of a scalar with respect to every trained leaf that it depends on.

    The result maps each leaf (`log pi`, its full distribution, `V`, a policy on an inner layer) to
    a formula with the indices of that leaf, or fewer if it does not vary along some.
    """
    adjoint: dict[n.Expr, n.Expr] = {objective: ONE}
    weights: dict[Leaf, n.Expr] = {}
    for node in reversed(n.topological(objective)):
        if not node.live or node not in adjoint:
            continue
        if isinstance(node, n.LogProb | n.LogDist | n.Column):
            weights[node] = adjoint[node]
            continue
        for operand, derivative, along in _pull(node, adjoint[node]):
            if not operand.live or derivative == ZERO:
                continue
            extra = remove(along, operand.indices)
            term = sum_over(extra, derivative)
            adjoint[operand] = gather(adjoint[operand], term) if operand in adjoint else term
    return dict(sorted(weights.items(), key=lambda item: repr(item[0])))


def partials(node: n.Unary | n.Binary) -> list[tuple[n.Expr, n.Expr]]:
    """The operands of a function of one or two values, each with the derivative with respect to
    it."""
    return [(operand, derivative) for operand, derivative, _ in _pull(node, ONE)]


def _pull(node: n.Expr, g: n.Expr) -> list[Contribution]:
    """The contribution of `g`, the derivative with respect to `node`, to each operand of `node`."""
    here = node.indices
    match node:
        case n.Unary(op, x) if (slope := UNARY[op].slope) is not None:
            (derivative,) = _asked(g, [mul(g, slope(x, node))], lambda: [slope(x, node)])
            return [(x, derivative, here)]
        case n.Binary("min" | "max"):
            return [(x, d, here) for x, d in _pull_extremum(node, g)]
        case n.Binary(op, a, b) if (pull := BINARY[op].pull) is not None:
            derivatives = _asked(g, pull(a, b, node, g), lambda: pull(a, b, node, ONE))
            return [(x, d, here) for x, d in zip((a, b), derivatives, strict=True)]
        case n.Clip(x, lo, hi):
            inside = both(n.Binary("ge", x, lo), n.Binary("le", x, hi))
            proper = n.Binary("lt", lo, hi)
            crossed = n.Binary("or", n.Binary("gt", x, hi), n.Binary("gt", lo, hi))
            return [
                (x, where(inside, g, ZERO), here),
                (lo, where(both(n.Binary("lt", x, lo), proper), g, ZERO), here),
                (hi, where(crossed, g, ZERO), here),
            ]
        case n.Where(m, a, b):
            return [(a, where(m, g, ZERO), here), (b, where(m, ZERO, g), here)]
        case n.Reduce(op, over, x, mask):
            along = union(here + over, x.indices, mask.indices if mask else ())
            derivative = mul(g, REDUCE[op].slope(node))
            return [(x, where(mask, derivative, ZERO) if mask else derivative, along)]
        case n.Quantile(over, x):
            return [(x, mul(g, node.shares), over_to(over))]
        case n.Peers():
            return _pull_peers(node, g)
        case n.Scan(relation, x, decay):
            return [(x, n.Scan(_FLIPPED[relation], g, decay), here)]
        case n.Shift(x, by):
            return [(x, n.Shift(g, -by), here)]
        case n.Unary() | n.Binary() | n.Stop() | n.Order() | n.Pick() | n.Length() | n.Position():
            raise TypeError(f"{type(node).__name__} is not live")
        case n.Const() | n.Param() | n.Column() | n.LogProb() | n.LogDist() | n.Present():
            raise TypeError(f"{type(node).__name__} is a leaf")
        case n.Symbol():
            raise TypeError("a symbol has no derivative")
    assert_never(node)


def _pull_peers(node: n.Peers, g: n.Expr) -> list[Contribution]:
    """The derivative with respect to a running element and to the present one.

    An element is reduced by the elements of which it is a peer: they share its keys, and the
    opposite relation holds. Divisors and values are those of the reducing element, so the terms are
    divided first and then added up. Where all of them divide by the same number, the result is
    their mean.
    """
    if not node.relation:
        receivers = _receivers(node, g)
        pull = mul(receivers, REDUCE[node.op].slope(node))
        held = where(node.where, pull, ZERO) if node.where else pull
        return [(node.x, held, node.elements)]
    contributions: list[Contribution] = []
    alike = node.op == "mean" and node.relation == "!=" and not node.keys and node.where is None
    op: n.ReduceOp = "mean" if alike else "sum"
    slope = ONE if alike else REDUCE[node.op].slope(node)
    for part, derivative in _of_parts(node.x, slope):
        match part:
            case n.Present(x):
                total = node.like(op, derivative, node.where)
                contributions.append((x, mul(g, total), node.indices))
            case _:
                received = _receivers(node, swapped(mul(n.Present(g), derivative)), op)
                held = where(node.where, received, ZERO) if node.where else received
                contributions.append((part, held, node.elements))
    return contributions


def _receivers(node: n.Peers, x: n.Expr, op: n.ReduceOp = "sum") -> n.Expr:
    """The sum over the elements that have the present one as a peer, or their mean."""
    over = tuple(index for index in node.over if index in node.indices)
    return n.Peers(op, over, x, node.keys, _SEEN_FROM[node.relation])


def _of_parts(body: n.Expr, derivative: n.Expr) -> list[tuple[n.Expr, n.Expr]]:
    """The leaves of a value of two elements that belong to one of them, each with the derivative
    with respect to it."""
    if not body.paired or isinstance(body, n.Present):
        return [(body, derivative)]
    adjoint: dict[n.Expr, n.Expr] = {body: derivative}
    parts: dict[n.Expr, n.Expr] = {}
    for node in reversed(n.topological(body)):
        if node not in adjoint or not node.live:
            continue
        if not node.paired or isinstance(node, n.Present):
            parts[node] = adjoint[node]
            continue
        for operand, term, _ in _pull(node, adjoint[node]):
            if operand.live and term != ZERO:
                known = adjoint.get(operand)
                adjoint[operand] = term if known is None else gather(known, term)
    return [*parts.items()]


def swapped(x: n.Expr) -> n.Expr:
    """A value of two elements with their roles exchanged: the running one becomes the present
    one."""
    if isinstance(x, n.Present):
        return x.x
    if not x.paired:
        return n.Present(x) if x.indices else x
    return x.rebuilt({child: swapped(child) for child in x.children})


def _asked(
    g: n.Expr, derivatives: Sequence[n.Expr], slopes: Callable[[], Sequence[n.Expr]]
) -> Sequence[n.Expr]:
    """Derivatives `g * slope` that are 0 where `g` is 0, even if the slope is infinite or undefined
    there."""
    mask = None if isinstance(g, n.Where) else _support(g, _MOST_MASKS)
    if mask is None:
        return derivatives
    pairs = zip(derivatives, slopes(), strict=True)
    return [d if finite(slope) else where(mask, d, ZERO) for d, slope in pairs]


def _support(g: n.Expr, most: int) -> n.Expr | None:
    """Where the masks of a derivative are not 0; None if that is everywhere, or not decided within
    `most` steps."""
    match g:
        case _ if most == 0:
            return None
        case n.Where(m, _, b) if b == ZERO:
            return m
        case n.Unary("neg", a) | n.Binary("div" | "mul", a, _):
            return _support(a, most - 1)
        case n.Binary("add" | "sub", a, b):
            q = _support(b, most - 1)
            p = None if q is None else _support(a, most - 1)
            if p is None or q is None or p == negation(q):
                return None
            return p if p == q else n.Binary("or", p, q)
    return None


def _pull_extremum(y: n.Binary, g: n.Expr) -> list[tuple[n.Expr, n.Expr]]:
    gated = clipped_surrogate(y)
    if gated is not None:
        x, slope, active = gated
        return [(x, where(active, mul(g, slope), ZERO))]
    # The mask is around the whole product: a factor that overflows where it does not hold is never
    # looked at. A finding about what is left out points at the extremum that leaves it out.
    shared = where(n.Binary("eq", y.a, y.b, span=y.span), mul(g, HALF), g)
    a_op: Literal["le", "ge"]
    b_op: Literal["le", "ge"]
    a_op, b_op = ("le", "ge") if y.op == "min" else ("ge", "le")
    return [
        (y.a, where(n.Binary(a_op, y.a, y.b, span=y.span), shared, ZERO)),
        (y.b, where(n.Binary(b_op, y.a, y.b, span=y.span), shared, ZERO)),
    ]


def clipped_surrogate(y: n.Binary) -> tuple[n.Expr, n.Expr, n.Expr] | None:
    """The pair `min(x * f, clip(x, lo, hi) * f)`, as (x, f, where the gradient passes).

    Where x is inside its bounds both sides tie, and the two halves add up to the whole; outside,
    one side is constant. So the gradient is f everywhere except where the clip wins: for `min`, at
    x > hi if f > 0 and at x < lo if f < 0. This is exact if lo <= hi, which must be proven.
    """
    for plain, clipped in ((y.a, y.b), (y.b, y.a)):
        negative, above, below = factors(clipped)
        for k, clip in enumerate(above):
            if not isinstance(clip, n.Clip) or clip.lo.live or clip.hi.live:
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
            wins = n.Binary(
                "or",
                both(_against_zero(up, f), n.Binary("gt", clip.x, clip.hi)),
                both(_against_zero(down, f), n.Binary("lt", clip.x, clip.lo)),
            )
            return clip.x, f, negation(wins)
    return None


def _against_zero(op: Literal["lt", "gt"], x: n.Expr) -> n.Expr:
    """`x < 0` or `x > 0`, without a minus sign."""
    match x:
        case n.Unary("neg", inner):
            return n.Binary("gt" if op == "lt" else "lt", inner, ZERO)
    return n.Binary(op, x, ZERO)


def _same_product(
    plain: n.Expr, x: n.Expr, rest: list[n.Expr], below: list[n.Expr], negative: bool
) -> bool:
    """Whether `plain` is `x` times the factors of the clipped side, in any order."""
    sign, plain_above, plain_below = factors(plain)
    x_sign, x_above, x_below = factors(x)
    return (
        (sign != negative) == x_sign
        and _bag(plain_above) == _bag([*x_above, *rest])
        and _bag(plain_below) == _bag([*x_below, *below])
    )


def _bag(many: list[n.Expr]) -> list[bytes]:
    return sorted(expr.key for expr in many)
