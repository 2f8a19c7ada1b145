"""A divisor can be 0 on realistic data.

**What.** A division by a standard deviation without a small number added to it, or by a masked
count that nothing keeps above 0.

**Why.** The standard deviation is 0 where all rewards of a group are equal, and in a group of one;
a mask may exclude every element. 0 / 0 is NaN, and one NaN makes every weight of the model NaN.

**Fine if** such data cannot occur; a training step with a NaN stops the run anyway.

**Example.**

    A = (reward - mean[i] reward) / std[i] reward

**Instead.** `/ (std[i] reward + 1e-6)`, `max(n, 1)`; a masked `mean[i | m]` is 0 by itself where
the mask excludes everything.

**Papers.** TRL adds 1e-4, verl 1e-6; the papers print neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.claims.shapes import has_deviation
from objdsl.analysis.facts import Facts
from objdsl.analysis.values.guards import divisors, never_zero
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("division-by-zero", "OBJ613", Severity.ERROR, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    expand, keep = facts.on_policy, facts.objective.keep
    seen: set[n.Expr] = set()
    for guarded in divisors(facts.objective.roots, keep):
        divisor = guarded.divisor
        if divisor.span is None or divisor in seen or not _may_be_zero(divisor, expand):
            continue
        if never_zero(guarded, expand):
            continue
        seen.add(divisor)
        deviation = has_deviation(divisor)
        yield rule.finding(
            "this divisor can be 0 on realistic data",
            divisor.span,
            under="0 where all of them are equal"
            if deviation
            else "0 where all of them are 0, or the mask excludes everything",
            consequence="one NaN in a step's weights makes every weight of the model NaN",
            help="add a small number" if deviation else "divide by max(..., 1)",
            fine_if="such data cannot occur",
            fix=Fix("add 1e-6", (_plus(divisor.span),)) if deviation else None,
        )


def _may_be_zero(divisor: n.Expr, expand: Expand) -> bool:
    """Whether every term of a divisor is a deviation or a masked count: then it can be 0."""
    try:
        terms = expand(divisor).terms
    except TooLargeError:
        return False
    return bool(terms) and all(
        c > 0 and any(e > 0 and _vanishes(base) for base, e in factors)
        for factors, c in terms.items()
    )


def _vanishes(base: n.Expr) -> bool:
    """Whether a value is a deviation or a masked count, as far as its form shows."""
    match base:
        case n.Reduce("std" | "pstd", _, _, _):
            return True
        case n.Reduce("sum", _, n.Column(values=values), _) if values:
            return min(values) == 0
        case n.Reduce("sum", _, x, _):
            return x.boolean or (isinstance(x, n.Where) and x.m.boolean)
        case n.Unary("abs" | "sqrt", x):
            return _vanishes(x)
    return False


def _plus(span: Span) -> Edit:
    return Edit(span, f"({span.text} + 1e-6)")
