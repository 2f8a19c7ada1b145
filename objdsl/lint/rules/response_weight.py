"""The weight of a reward changes with the response, by a factor that no other rule covers.

**What.** A factor of all rewarded terms that depends on the response from its own token on: on its
reward, its probability, later tokens, or on a statistic of the group that includes it.

**Why.** The gradient is that of the expected reward if the coefficient of a response's own reward
is a constant (docs/criterion.md). Otherwise it is a different gradient. For a token's probability,
its position, a critic's value or a smooth function of the response's own reward that is proven;
for what might be a constant in disguise, such as a maximum, it is likely, and a note.

**Fine if** the factor is the point of the method: a mask of outliers, a preference for some
tokens.

**Example.**

    maximize mean[p,i] sum[t] (sigmoid(reward) * A * log(pi))

**Instead.** Measure the effect: `objdsl audit FILE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.algebra.symbols import LogRatio, Ratio
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.claims.shapes import has_deviation
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor
from objdsl.analysis.values.dependence import is_reward
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.ir.columns import Values, column_of
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("response-weight", "OBJ100", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in _widest(facts.factors(Reason.RESPONSE)):
        proven = _varies(factor, estimator)
        yield rule.finding(
            "the weight of a reward depends on its own response or group",
            factor.origin.span,
            certainty=Certainty.PROVEN if proven else Certainty.LIKELY,
            under="depends on " + ", ".join(sorted(map(str, factor.depends.reads))),
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            gradient=("" if proven else "in general ") + "not that of the expected reward",
            help="measure it: objdsl audit",
            fine_if="it is the point of the method",
        )


def _widest(pairs: Iterable[tuple[Estimator, Factor]]) -> Iterable[tuple[Estimator, Factor]]:
    """The factor with the longest text, among those that read the same."""
    widest: dict[frozenset[str | Ratio], tuple[Estimator, Factor]] = {}
    for estimator, factor in pairs:
        known = widest.get(factor.depends.reads)
        if known is None or _width(known[1]) < _width(factor):
            widest[factor.depends.reads] = estimator, factor
    return widest.values()


def _width(factor: Factor) -> int:
    span = factor.origin.span
    return span.end - span.start if span else 0


def _varies(factor: Factor, estimator: Estimator) -> bool:
    """Whether a factor certainly changes with the response, and no other one compensates for
    that."""
    reads = factor.depends.reads
    beside = [bend.factor for bend in estimator.bias_factors if bend.factor.base != factor.base]
    if any(reads & other.depends.reads for other in beside):
        return False
    match factor.base:
        case n.Clip() | n.Binary("min" | "max"):
            # Within the bounds it is the standardised reward, which its divisor biases.
            divided = has_deviation(factor.base) and bool(factor.depends.rewards)
            return divided and not estimator.rewards_are_binary
        case n.LogProb() | LogRatio() | n.Position() | n.Unary("exp", n.LogProb() | LogRatio()):
            return True
        case n.Column() as column if column_of(column).role == Values(old=True):
            return True
        case n.Unary("exp" | "sigmoid", x):
            return _is_affine(x, estimator)
    return _is_affine(factor.base, estimator)


def _is_affine(x: n.Expr, estimator: Estimator) -> bool:
    """Whether a value is a multiple of the response's own reward, plus a number."""
    try:
        factors = [factor for product in estimator.expand(x).terms for factor in product]
    except TooLargeError:
        return False
    return bool(factors) and all(is_reward(base) and e == 1 for base, e in factors)
