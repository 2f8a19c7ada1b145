"""The reason for which a factor biases the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.claims.shapes import (
    counts,
    discounts,
    inside_ratio,
    is_mask,
    is_score,
    measures_dispersion,
    product_with_gradients,
    reaches_some,
)
from objdsl.analysis.gradient.estimator import BiasFactor, Estimator
from objdsl.analysis.gradient.terms import Factor
from objdsl.analysis.values.dependence import Level, depends

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


def reason_of(bias: BiasFactor, estimator: Estimator, facts: Facts) -> Reason:
    """The reason for which a factor biases the gradient."""
    factor, below = bias.factor, bias.factor.exponent < 0
    if estimator.branch is not None and _is_of_others(factor):
        return Reason.SHARED
    if is_mask(factor.base):
        return Reason.MASK
    if reaches_some(factor.base):
        return Reason.REACH
    if not bias.everywhere:
        return _of_baseline(factor, estimator, facts)
    if factor.depends.reads == {"|y|"}:
        return _of_length(factor, facts)
    if below and counts(factor.base):
        return Reason.COUNT
    if discounts(factor.base):
        return Reason.DISCOUNT
    if is_score(factor.base, estimator.leaf) and product_with_gradients(facts, estimator.leaf):
        return Reason.SCORE
    if below and measures_dispersion(estimator, factor):
        return Reason.STEP_DISPERSION if factor.depends.batch else Reason.GROUP_DISPERSION
    return Reason.RESPONSE


def _is_of_others(factor: Factor) -> bool:
    """Whether a factor would not change with the response if the others shared no tokens with
    it."""
    alone = depends(factor.base)
    return Level.OTHERS in alone.levels and not alone.on_response


def _of_length(factor: Factor, facts: Facts) -> Reason:
    if factor.base == n.Length() and factor.exponent == -1:
        inside = inside_ratio(facts, factor.origin)
        return Reason.GEOMETRIC if inside else Reason.LENGTH
    if factor.exponent < 0 and Level.OTHERS in factor.depends.levels:
        return Reason.STEP_TOKENS if factor.depends.batch else Reason.GROUP_TOKENS
    return Reason.LENGTH_WEIGHT


def _of_baseline(factor: Factor, estimator: Estimator, facts: Facts) -> Reason:
    if factor.exponent < 0 and counts(factor.base):
        return Reason.COUNT
    # If the reward is discounted, the values are, too.
    bases = [bias.factor.base for bias in estimator.bias_factors]
    discounted = any(discounts(base) or reaches_some(base) for base in bases)
    if discounts(factor.base) or (discounted and isinstance(factor.base, n.Scan)):
        return Reason.DISCOUNT
    if factor.base == estimator.leaf and factor.base in facts.passing:
        return Reason.SCORE
    return Reason.STEP_BASELINE if factor.depends.batch else Reason.BASELINE
