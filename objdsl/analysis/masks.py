"""Masks that say together what no mask need say: A where it is above 0, and A where it is below, is
A.

`(A if A > 0 and r < hi or A < 0 and r > lo else 0)` leaves out the responses whose A is 0, on
policy, and nothing of the weight is left out with them.
"""

from __future__ import annotations

from collections import defaultdict

from objdsl.analysis.expand import Expand, Sum, TooLarge, ordered
from objdsl.ir.build import ZERO
from objdsl.ir.nodes import Binary, Expr


def joined(x: Sum, expand: Expand) -> Sum:
    """A sum of products without the pairs of masks `q < 0` and `q > 0` in front of one multiple of
    q, and without those of `min(q, 0)` and `max(q, 0)` in front of one value."""
    bases = {base for factors in x.terms for base, _ in factors}
    for below in sorted(bases, key=lambda base: base.key):
        match below:
            case Binary("lt" | "min" as op, q, zero) if zero == ZERO:
                above = Binary("gt" if op == "lt" else "max", q, ZERO)
                if above in bases:
                    x = _joined(x, below, above, expand(q))
    return x


def _joined(x: Sum, below: Expr, above: Expr, q: Sum) -> Sum:
    beside: defaultdict[Expr | None, Sum] = defaultdict(Sum)
    for factors, c in x.terms.items():
        one = next((base for base in (below, above) if (base, 1.0) in factors), None)
        beside[one] += Sum({factors - {(one, 1.0)} if one else factors: c})
    same, rest = beside[below], beside[None]
    try:
        if same != beside[above]:
            return x
        if not below.boolean:
            return rest + q * same
        return rest + same if _divides(q, same) else x
    except TooLarge:
        return x


def _divides(q: Sum, x: Sum) -> bool:
    """Whether x is q times another sum."""
    parts = sorted(filter(None, q.terms), key=lambda f: [base.key for base, _ in ordered(f)])
    if not parts:
        return False
    first = parts[0]
    rest = {f - first: c / q.terms[first] for f, c in x.terms.items() if first <= f}
    return not (q * Sum(rest) - x).terms
