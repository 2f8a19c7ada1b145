"""The divisor counts fewer elements than the sum that it divides.

**What.** `sum[t] x / sum[t] m`: the mask m is in the divisor, but not in the sum. For example,
truncated responses that are left out of the count alone.

**Why.** The result is not a mean: it is `n / k` times the mean over all n elements, where k of
them are counted. The factor is 1 where the mask keeps everything, and grows without bound where it
keeps little; it differs between responses, groups or steps, so those with the fewest kept elements
get the largest weight.

**Fine if** the weight is intended. Then write it out: `mean[t] x * (|y| / k)`.

**Example.**

    m = pi > 0.01
    maximize mean[p,i] (sum[t] (A * log(pi)) / max(sum[t] m, 1))

**Instead.** `mean[t | m] x`, which masks both; or `mean[t] (x if m else 0)`, which counts all
elements.

**Papers.** DAPO, arXiv:2503.14476, leaves truncated responses out of the sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, TooLargeError, atom, ordered
from objdsl.analysis.claims.shapes import is_mask
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.values.guards import leaves_nothing_out
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.indices import Index, Indices
from objdsl.lint.places import entry, head, marked
from objdsl.lint.rule import Rule, rule

_ELEMENTS = {"p": "prompts", "i": "responses", "t": "tokens"}


@rule("mask-in-divisor", "OBJ619", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.estimators:
        for divisor, counted in _divisors(estimator):
            try:
                if _masked(counted, divisor, estimator):
                    continue
            except TooLargeError:
                continue
            origin = estimator.expand.origin.get(divisor, divisor)
            many = _ELEMENTS[counted.index]
            yield rule.finding(
                f"a sum over all {many} is divided by the number of some",
                head(origin),
                claim=_claim(estimator, divisor),
                under=f"counts some of the {many}",
                labels=entry(facts),
                weight=marked(facts, estimator.weight, origin),
                consequence="whatever has the fewest kept elements gets the largest weight",
                help=f"`mean[{counted.index} | m]` masks both; a mask in the numerator alone "
                "counts all",
                fine_if="the weight is intended",
                fix=_fix(facts, counted),
            )
            return


def _claim(estimator: Estimator, divisor: n.Expr) -> Claim:
    """Whether the divisor only weights prompts, as a count of rewards of two values does."""
    prompts = {factor.base for factor in estimator.prompt_weights}
    biasing = {bias.factor.base for bias in estimator.bias_factors}
    return Claim.PROMPT_WEIGHTS if divisor in prompts - biasing else Claim.DIRECTION


@dataclass(frozen=True)
class _Counted:
    """A number of elements where masks hold.

    Attributes:
        over: the indices of the elements.
        masks: all of these hold for what is counted; or, if not `holds`, none.
    """

    over: Indices
    masks: frozenset[n.Expr]
    holds: bool = True

    @property
    def index(self) -> Index:
        """The index that the masks leave elements of out."""
        return max((mask.indices[-1] for mask in self.masks), key="pitv".index)


def _counted(x: n.Expr) -> _Counted | None:
    """What a divisor counts; without masks, all elements."""
    over: Indices = ()
    match x:
        case (
            n.Binary("max", a, n.Const())
            | n.Binary("max", n.Const(), a)
            | n.Binary("add", a, n.Const())
        ):
            return _counted(a)
        case n.Binary("sub", a, b):
            every, left_out = _counted(a), _counted(b)
            if every is None or left_out is None or every.masks or not left_out.masks:
                return None
            return _Counted(left_out.over, left_out.masks, holds=False)
    while isinstance(x, n.Reduce) and x.op == "sum" and x.where is None:
        over, x = (*over, *x.over), x.x
    masks: set[n.Expr] = set()
    for part in _product(x):
        if isinstance(part, n.Length):
            over = (*over, "t")
        elif is_mask(part):
            masks.add(part)
        elif part != ONE:
            return None
    return _Counted(over, frozenset(masks)) if over else None


def _product(x: n.Expr) -> list[n.Expr]:
    match x:
        case n.Binary("mul" | "and", a, b):
            return _product(a) + _product(b)
        case n.Where(mask, a, b) if b == ZERO:
            return _product(mask) + _product(a)
    return [x]


def _divisors(estimator: Estimator) -> Iterator[tuple[n.Expr, _Counted]]:
    """The divisors of the weight that count where masks hold, once each."""
    terms = estimator.expanded.terms if estimator.expanded else {}
    below = {base for factors in terms for base, e in factors if e < 0}
    for base in sorted(below, key=lambda base: base.key):
        counted = _counted(base)
        if counted is not None and counted.masks:
            yield base, counted


def _masked(counted: _Counted, divisor: n.Expr, estimator: Estimator) -> bool:
    """Whether only counted elements are above a divisor; or it is not the divisor of any sum, and
    weights them."""
    assert estimator.expanded is not None
    left = Sum()
    for factors, c in estimator.expanded.terms.items():
        if (divisor, -1.0) not in factors:
            continue
        sums = sum(e > 0 and _sums(base, counted.index) for base, e in factors)
        divisors = [_counted(base) for base, e in factors if e < 0]
        if sum(d is not None and counted.index in d.over for d in divisors) > 1 + sums:
            continue
        term = Sum({frozenset(): c})
        for base, e in ordered(factors):
            elsewhere = _elsewhere(base, counted) if e > 0 else base
            term = term * (atom(base, e) if elsewhere == base else estimator.expand(elsewhere))
        left = left + term
    return not left.terms or _idle(counted, left, estimator.expand)


def _idle(counted: _Counted, left: Sum, expand: Expand) -> bool:
    """Whether the rest of the weight is 0 where a mask of the counted elements fails: prompts whose
    rewards are equal have no advantage, and are not part of the sum."""
    masks = {part for mask in counted.masks for part in _atoms(expand(mask))}
    return counted.holds and any(leaves_nothing_out(mask, left, expand) for mask in masks)


def _atoms(mask: Sum) -> list[n.Expr]:
    """The mask of an expanded one, if it is a single one."""
    only = mask.product
    return [base for base, _ in only[0]] if only is not None and len(only[0]) == 1 else []


def _elsewhere(expr: n.Expr, counted: _Counted) -> n.Expr:
    """A value where an element is not counted."""
    decided: n.Expr = ZERO if counted.holds else ONE
    new: dict[n.Expr, n.Expr] = {}
    for node in n.topological(expr):
        match node:
            case _ if node in counted.masks:
                new[node] = decided
            case n.Binary("and", a, b) if decided in (new[a], new[b]):
                rest = new[b] if new[a] == decided else new[a]
                new[node] = ZERO if decided == ZERO else rest
            case n.Binary("or", a, b) if decided in (new[a], new[b]):
                rest = new[b] if new[a] == decided else new[a]
                new[node] = ONE if decided == ONE else rest
            case n.Unary("not", x) if new[x] in (ZERO, ONE):
                new[node] = ONE if new[x] == ZERO else ZERO
            case n.Where(mask, a, b) if new[mask] in (ZERO, ONE):
                new[node] = new[b] if new[mask] == ZERO else new[a]
            case _:
                new[node] = node.rebuilt(new)
    return new[expr]


def _sums(base: n.Expr, index: Index) -> bool:
    return isinstance(base, n.Reduce) and base.op == "sum" and index in base.over


def _fix(facts: Facts, counted: _Counted) -> Fix | None:
    """`sum[t] x / sum[t] m` to `mean[t | m] x`, where the text has both."""
    for node in n.topological(*facts.objective.roots):
        match node:
            case n.Binary("div", n.Reduce("sum", over, _, None) as above, below):
                mask = _mask_of(below)
                total = head(above)
                if mask is None or mask.span is None or node.span is None:
                    continue
                if total is None or above.span is None or over != (counted.index,):
                    continue
                rest = above.span.text[len(total.text) :]
                text = f"mean[{counted.index} | {mask.span.text}]{rest}"
                return Fix("mask both", (Edit(node.span, text),))
    return None


def _mask_of(divisor: n.Expr) -> n.Expr | None:
    match divisor:
        case n.Binary("max" | "add", a, n.Const()) | n.Binary("max" | "add", n.Const(), a):
            return _mask_of(a)
        case n.Reduce("sum", _, x, None) if x.boolean:
            return x
        case n.Reduce("sum", _, n.Where(mask, unit, zero), None) if unit == ONE and zero == ZERO:
            return mask
        case n.Reduce("sum", _, unit, mask) if unit == ONE:
            return mask
    return None
