"""Something besides the reward is raised: what is maximised is their sum.

**What.** A term of the weight that depends on the response and is neither its reward nor a penalty
against a frozen policy: `reward - 0.3 * |y|`, `reward - 0.4 * sg(mean[t] log(pi))`, the likelihood
of demonstrations.

**Why.** A term `f(y)` beside the reward is not a baseline: `E[f(y) grad log pi(y)]` is the
gradient of `E[f]`. The objective maximises the reward plus f, whatever the intention was: a length
that was meant to centre the rewards becomes a price per token.

**Fine if** that sum is what should be maximised.

**Example.**

    R = reward - 0.3 * |y|
    maximize mean[p,i] (R * sum[t] log(pi))

**Instead.** Nothing, if it is intended. A baseline depends only on the prompt, the other responses
or the tokens before: `mean[j != i] |y|`.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.sums import Sum
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Kind, Term
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry
from objdsl.lint.rule import Rule, rule

# Longer formulas are not shown.
_LONGEST = 160


@rule("reward-shaping", "OBJ112", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for departure in facts.departing(Reason.SHAPING):
        estimator = departure.estimator
        if estimator is None:
            continue
        shaping = estimator.of(Kind.SHAPING)
        factor = next(f for term in shaping for f in term.factors if f.depends.on_response)
        total = facts.written(_beside(estimator, shaping).expr())
        read = sorted({str(x) for term in shaping for f in term.factors for x in f.depends.reads})
        yield rule.finding(
            "besides the reward, another property of the response is raised or lowered",
            factor.origin.span or facts.objective.goal.span,
            under="depends on " + ", ".join(read),
            labels=entry(facts),
            weight=f"besides the reward: {total}" if len(total) <= _LONGEST else "",
            value="E[reward] plus the expectation of the other term",
            gradient="that of their sum",
            help="a baseline depends on the prompt, on other responses (`j != i`) or on earlier "
            "tokens",
            fine_if="the sum is what should be maximised",
        )


def _beside(estimator: Estimator, shaping: list[Term]) -> Sum:
    """What is raised besides the reward, in units of the reward if its coefficient is a number."""
    signal = estimator.of(Kind.SIGNAL)
    plain = [term for term in signal if not estimator.sized(term)[1]]
    unit = sum(estimator.sized(term)[0] * term.coefficient for term in plain) or 1.0
    total = Sum()
    for term in shaping:
        size, rest = estimator.sized(term)
        factors = frozenset((f.base, f.exponent) for f in rest)
        total = total + Sum({factors: round(size * term.coefficient / unit, 9)})
    return total
