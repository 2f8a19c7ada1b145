"""Factors that change with the response and bring no bias: kept prompts, counts, bootstraps."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError
from objdsl.analysis.gradient.terms import Kind
from objdsl.analysis.gradient.weight import Weight
from objdsl.analysis.values.guards import leaves_nothing_out
from objdsl.ir.build import ONE, ZERO, count, div, real
from objdsl.ir.columns import is_critic
from objdsl.ir.indices import TOKEN

_AT_THE_END = n.Binary("eq", n.Position(), n.Length())


def keep_factors(weight: Weight) -> frozenset[n.Expr]:
    """The mask of the prompts that are kept, and the numbers of them and of their responses."""
    keep = weight.objective.keep
    if keep is None:
        return frozenset()
    counted = (keep, count(("p",), keep), count(("p", "i"), keep))
    forms = [form for x in counted for form in (x, div(ONE, x))]
    return frozenset(base for x in forms for f in weight.expand(x).terms for base, _ in f)


def counts_of_others(weight: Weight) -> frozenset[n.Expr]:
    """The divisors that count prompts by their responses, where prompts that are not counted have
    no weight of rewards: for each of the others the count is 1 plus that of the other prompts."""
    terms = weight.expanded.terms if weight.expanded else {}
    kinds = Kind.SIGNAL, Kind.BASELINE
    rewarded = {f: c for f, c in terms.items() if weight.term(f, c).kind in kinds}
    counts: set[n.Expr] = set()
    for base in {base for factors in rewarded for base, e in factors if e < 0}:
        mask = _match_counted_prompts(base)
        product = None if mask is None else weight.expand(mask).product
        if product is None or len(product[0]) != 1:
            continue
        ((mask, _),) = product[0]
        under = {f: c for f, c in rewarded.items() if (base, -1.0) in f}
        rest = Sum({f - {(base, -1.0)}: c for f, c in under.items()})
        with suppress(TooLargeError):
            if leaves_nothing_out(mask, rest, weight.expand):
                counts.add(base)
    return frozenset(counts)


def _match_counted_prompts(base: n.Expr) -> n.Expr | None:
    """The mask of the prompts that a value counts, if it counts at least one; None for other
    values."""
    match base:
        case n.Reduce("sum", ("p",), n.Where(mask, then, otherwise), None):
            return mask if (then, otherwise) == (ONE, ZERO) else None
        case n.Reduce("sum", ("p",), mask, None) if mask.boolean:
            return mask
        case n.Binary("max", x, n.Const(least)) | n.Binary("max", n.Const(least), x) if least <= 1:
            return _match_counted_prompts(x)
    return None


def bootstraps(weight: Weight) -> frozenset[n.Expr]:
    """The factors of a lambda-return, which cause no bias if the critic is exact.

    With `d` for lambda it is `d^(n - t) R + (1/d - 1) sum[s >= t] d^(s - t) V_s - V_t / d`: the
    later values make up for what the reward loses through `d`. For lambda 0 it is the reward at the
    last token, and before that the next value.
    """
    discounts = {
        factor.base: term.coefficient
        for term in weight.of(Kind.SIGNAL)
        for factor in term.factors
        if isinstance(factor.base, n.Scan) and factor.base.decay is not None
    }
    tokens = {reward for reward in weight.objective.rewards if reward.over == TOKEN}
    paid: list[n.Expr] = [real(_AT_THE_END), *tokens]
    at_the_end = {
        term.coefficient
        for term in weight.of(Kind.SIGNAL)
        if any(factor.base == _AT_THE_END or factor.base in tokens for factor in term.factors)
    }
    factors: set[n.Expr] = set()
    for term in weight.of(Kind.BASELINE):
        for factor in term.factors:
            match factor.base:
                case n.Scan(">=", value, n.Const(d) as decay) if is_critic(value):
                    returns = {replace(factor.base, x=x) for x in paid} & discounts.keys()
                    lost = [discounts[x] * (1 / d - 1) for x in returns]
                    alike = all(math.isclose(term.coefficient, x) for x in lost)
                    if lost and alike and decay.value < 1:
                        factors |= {factor.base, *returns}
                case n.Shift(value, 1) if is_critic(value) and term.coefficient in at_the_end:
                    factors |= {factor.base, _AT_THE_END, *tokens}
    return frozenset(factors)
