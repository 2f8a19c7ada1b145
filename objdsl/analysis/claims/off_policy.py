"""Why an objective does not follow the true gradient off policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import Sum, TooLargeError
from objdsl.analysis.algebra.symbols import OfPolicies
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.first_order import Order, Reach, reach
from objdsl.analysis.gradient.terms import Factor, Kind, Term

if TYPE_CHECKING:
    from objdsl.analysis.facts import Facts


def off_policy(facts: Facts) -> Iterator[Reason]:
    """The reasons; a later one is only examined if no earlier one holds."""
    if not facts.rewarded:
        return
    if not facts.corrects:
        sampling = facts.objective.sampling
        if sampling.staleness or sampling.policy not in ("pi", "old", "mu"):
            yield Reason.STALE
        return
    order = facts.first_order
    if order is None:
        yield Reason.OTHER_WEIGHT
    elif order.kinks or not all(_whole_ratio(facts, branch) for branch in order.branches):
        yield Reason.FIRST_ORDER
    else:
        far = facts.far
        if any(far.expanded is None or _cut(far, term) for term in far.of(Kind.SIGNAL)):
            yield Reason.BOUNDED
        elif any(not _weighted(far, term) for term in far.of(Kind.BASELINE)):
            yield Reason.UNWEIGHTED


def _whole_ratio(facts: Facts, branch: Order) -> bool:
    """Whether the weight is the ratio of the response, to first order."""
    whole = {Reach.SEQUENCE: 1.0}
    engine = branch.engine == whole or facts.objective.sampling.policy != "mu"
    return branch.drift == whole and engine


def _cut(far: Estimator, term: Term) -> bool:
    """Whether a product contains the policies in a form other than ratios."""
    return any(_reads_policy(f.base) and not _ratios(far, f) for f in term.factors)


def _weighted(far: Estimator, term: Term) -> bool:
    """Whether a baseline is weighted by a ratio that includes those of its own token and of the
    tokens before: its expectation under the sampler is then 0."""
    reaches: set[Reach] = set()
    for factor in term.factors:
        if factor.depends.on_response and _reads_policy(factor.base):
            ratios = _ratios(far, factor)
            if not ratios:
                return False
            reaches |= ratios
    return reaches in ({Reach.SEQUENCE}, {Reach.PREFIX}, {Reach.BEFORE, Reach.TOKEN})


def _ratios(far: Estimator, factor: Factor) -> set[Reach]:
    """The tokens that the ratios of a factor run over; none if it is not a product of ratios."""
    try:
        return reach(Sum({frozenset({(factor.base, factor.exponent)}): 1.0}), far.expand)
    except TooLargeError:
        return set()


def _reads_policy(x: n.Expr) -> bool:
    return any(isinstance(node, OfPolicies) for node in n.topological(x))
