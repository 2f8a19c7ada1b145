"""The mean includes the response's own reward: the gradient is (G - 1) / G of the true one.

**What.** `reward - mean[i] reward`, or the mean over the whole step.

**Why.** A response's own reward is one of the G rewards in the mean, so `1 / G` of it is
subtracted from itself. The effect is exactly a scale: the direction is right, on policy and off.
`mean[j != i]` has the factor 1.

**Fine if** always, if the learning rate was tuned with it.

**Example.**

    A = reward - mean[i] reward

**Instead.** `A = reward - mean[j != i] reward`, if learning rates are to carry over between group
sizes.

**Papers.** RLOO, arXiv:2402.14740; Dr. GRPO, arXiv:2503.20783, appendix A.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.algebra.reductions import GROUP, RESPONSES
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Kind
from objdsl.analysis.values.dependence import is_reward
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Expr, Reduce
from objdsl.lint.rule import Rule, rule


@rule("own-mean", "OBJ205", Severity.NOTE, Claim.STYLE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        mean = _mean(facts)
        if mean is not None and _scaled(estimator):
            yield rule.finding(
                "this mean includes the reward that it is subtracted from",
                mean.span,
                under="includes the response's own reward",
                gradient="exactly (G - 1) / G times the true one",
                help="`mean[j != i]` has no such factor",
                fine_if="the learning rate was tuned with it",
            )


def _scaled(estimator: Estimator) -> bool:
    """Whether the response's own reward occurs once as it is, and once divided by the number of
    responses, of which none shares its tokens."""
    if estimator.branch is not None:
        return False
    counts = [
        sum(f.exponent for f in term.factors if f.base in (GROUP, RESPONSES))
        for term in estimator.of(Kind.SIGNAL)
        if not any(
            f.depends.on_response and f.exponent > 0 and f.base not in estimator.keep_factors
            for f in term.factors
        )
    ]
    return len(set(counts)) > 1


def _mean(facts: Facts) -> Expr | None:
    for node in facts.objective.nodes:
        match node:
            case Reduce("mean", ("i",) | ("p", "i"), x, None) if node.span and is_reward(x):
                return node
    return None
