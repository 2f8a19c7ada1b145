"""What masks imply: a divisor is not 0 where one holds, rewards are equal where one fails.

`x / m if m > 0 else 0` and `keep p where std[i] reward > 0` divide by values that are not 0 there.
And a mask does not change a value that is 0 wherever it fails: `A if std[i] reward > 0 else 0` is
A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError, above_zero, atom, interval
from objdsl.analysis.algebra.symbols import Opaque
from objdsl.analysis.values.dependence import is_reward
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO
from objdsl.ir.indices import PROMPT, Indices

AsSum = Callable[[n.Expr], Sum]

# The branches of a formula that are read at most.
_MOST_BRANCHES = 2000


@dataclass(frozen=True)
class Alike:
    """`x` is the same, or 0, for all elements along some indices."""

    over: Indices
    x: n.Expr
    zero: bool


def where_zero(q: Sum) -> Alike | None:
    """What holds where a value that is never negative is 0; None if no known form matches."""
    if not q.terms:
        return None
    shared = frozenset.intersection(*q.terms)
    q = Sum(
        {f - {power for power in shared if above_zero(power[0])}: c for f, c in q.terms.items()}
    )
    bases = [next(iter(factors)) for factors in q.terms if len(factors) == 1]
    if len(bases) != len(q.terms) or any(e <= 0 for _, e in bases):
        return None
    match sorted(zip(bases, q.terms.values(), strict=True), key=lambda power: -power[1]):
        case [((n.Reduce("std" | "pstd", over, x, None), _), _)]:
            return Alike(over, x, zero=False)
        case [((n.Reduce("sum" | "max", over, x, None), _), _)] if interval(atom(x))[0] >= 0:
            return Alike(over, x, zero=True)
        case [((n.Unary("abs" | "sqrt", x), _), _)] if isinstance(x, n.Reduce):
            return where_zero(atom(x))
        case [((n.Reduce("max", over, x, None), 1), c), ((n.Reduce("min", along, y, None), 1), d)]:
            if x == y and over == along and c == -d > 0:
                return Alike(over, x, zero=False)
    return None


# --- what holds where a mask fails ---------------------------------------------------------------


def without_idle(x: Sum, expand: AsSum) -> Sum:
    """A sum of products without the masks that leave nothing out: where one fails, the values that
    it multiplies are 0 anyway."""
    masks = {base for factors in x.terms for base, _ in factors if base.boolean}
    for mask in sorted(masks, key=lambda mask: mask.key):
        under = Sum({f - {(mask, 1.0)}: c for f, c in x.terms.items() if (mask, 1.0) in f})
        try:
            if leaves_nothing_out(mask, under, expand):
                x = Sum({f: c for f, c in x.terms.items() if (mask, 1.0) not in f}) + under
        except TooLargeError:
            continue
    return x


def leaves_nothing_out(mask: n.Expr, x: Sum, expand: AsSum) -> bool:
    """Whether a value is 0 where a mask fails. Divisors are ignored: whether something is divided
    by 0 there is not examined. Raises TooLargeError."""
    alike = _where_fails(mask, expand)
    if alike is None or not x.terms:
        return False
    below: dict[n.Expr, float] = {}
    for factors in x.terms:
        for base, e in factors:
            below[base] = min(below.get(base, 0.0), e)
    lifted = x * Sum({frozenset((base, -e) for base, e in below.items() if e < 0): 1.0})
    return not under_fact(lifted, alike, expand).terms


def _where_fails(mask: n.Expr, expand: AsSum) -> Alike | None:
    """What holds where a comparison with 0 fails; None for other masks."""
    match mask:
        case n.Binary("gt", q, zero) if zero == ZERO:
            value = expand(q)
        case n.Binary("lt", q, zero) if zero == ZERO:
            value = -expand(q)
        case _:
            return None
    return where_zero(value)


def under_fact(x: Sum, alike: Alike, expand: AsSum) -> Sum:
    """What a sum becomes where a fact holds for the rewards of each group; the sum itself, if the
    fact is about a different value."""
    if alike.over != ("i",) or not (isinstance(alike.x, n.Column) and is_reward(alike.x)):
        return x
    formula = x.expr()
    nodes = n.topological(formula)
    instead: dict[n.Expr, n.Expr] = {alike.x: ZERO if alike.zero else replace(alike.x, over=PROMPT)}
    # The rewards of other prompts stay as they are.
    pooling = (n.Reduce, n.Peers, n.Quantile, n.Order)
    steps = [node for node in nodes if isinstance(node, pooling) and "p" in node.over]
    instead |= {node: Opaque(k) for k, node in enumerate(steps)}
    return expand(n.replaced(formula, instead))


# --- what is not 0 where a mask holds ------------------------------------------------------------


@dataclass(frozen=True)
class Guarded:
    """A divisor, and the masks that hold where it divides."""

    divisor: n.Expr
    masks: frozenset[tuple[n.Expr, bool]]


def divisors(roots: tuple[n.Expr, ...], keep: n.Expr | None) -> Iterator[Guarded]:
    """Every divisor of some formulas, with each set of masks that guards it."""
    start: frozenset[tuple[n.Expr, bool]] = frozenset({(keep, True)} if keep is not None else ())
    stack, seen = [(root, start) for root in roots], set[tuple[n.Expr, frozenset[object]]]()
    while stack and len(seen) < _MOST_BRANCHES:
        node, masks = stack.pop()
        if (node, masks) in seen:
            continue
        seen.add((node, masks))
        match node:
            case n.Where(m, a, b):
                stack += [(m, masks), (a, masks | {(m, True)}), (b, masks | {(m, False)})]
                continue
            case n.Binary("and", a, b):  # the second matters only where the first holds
                stack += [(a, masks), (b, masks | {(a, True)})]
                continue
            case n.Reduce(_, _, x, where) | n.Quantile(_, x, _, where) if where is not None:
                stack += [(where, masks), (x, masks | {(where, True)})]
                continue
            case n.Binary("div", _, divisor):
                yield Guarded(divisor, masks)
        stack += [(child, masks) for child in node.children]


def never_zero(guarded: Guarded, expand: AsSum) -> bool:
    """Whether the masks around a divisor keep it from being 0."""
    divisor = expand(guarded.divisor)
    fact = where_zero(divisor)
    for mask, holds in guarded.masks:
        for value in _nonzero_values(mask, holds, expand):
            if _multiple(divisor, value) or (fact is not None and fact == where_zero(value)):
                return True
    return False


def _multiple(a: Sum, b: Sum) -> bool:
    """Whether a value is at least a positive multiple of a different one, as far as is seen."""
    if not a.terms or not b.terms:
        return False
    for f in b.terms:
        for g in a.terms:
            powers = dict(g)
            for base, e in f:
                powers[base] = powers.get(base, 0.0) - e
            by = frozenset((base, e) for base, e in powers.items() if e)
            if all(above_zero(base) for base, _ in by):
                times = Sum({by: a.terms[g] / b.terms[f]})
                left = a - b * times
                if not left.terms or (a.terms[g] / b.terms[f] > 0 and interval(left)[0] >= 0):
                    return True
        break
    return False


def _nonzero_values(mask: n.Expr, holds: bool, expand: AsSum) -> Iterator[Sum]:
    """The values that are not 0 where a mask holds, or where it does not, as far as comparisons,
    `and`, `or` and `not` show."""
    match mask:
        case n.Unary("not", m):
            yield from _nonzero_values(m, not holds, expand)
        case n.Stop(m):
            yield from _nonzero_values(m, holds, expand)
        case n.Binary("and" | "or" as op, a, b) if (op == "and") is holds:
            yield from _nonzero_values(a, holds, expand)
            yield from _nonzero_values(b, holds, expand)
        case n.Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            small, large = (a, b) if (op in ("lt", "le")) is holds else (b, a)
            strict = (op in ("lt", "gt")) is holds
            less, more = expand(small), expand(large)
            if strict:
                yield more - less
            low, high = interval(less)[0], interval(more)[1]
            if low > 0 or (low >= 0 and strict):
                yield more
            if high < 0 or (high <= 0 and strict):
                yield -less
        case n.Binary("eq" | "ne" as op, a, b) if (op == "ne") is holds:
            yield expand(a) - expand(b)
