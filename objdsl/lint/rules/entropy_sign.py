"""This term lowers the entropy of the policy: the sign of the bonus is wrong.

**What.** `- 0.01 * entropy` in what is maximised, `+ 0.01 * entropy` in what is minimised, or the
same written out as a sum over the vocabulary.

**Why.** The gradient with respect to the distribution at a state is that of minus its entropy:
likely tokens become likelier, whatever the rewards are. A policy without entropy samples the same
response to a prompt every time, and groups teach nothing.

**Fine if** the entropy should be lowered.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - 0.01 * entropy)

**Instead.** `+ 0.01 * entropy`.

**Papers.** Asynchronous methods, arXiv:1602.01783, has the bonus.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import LogDist
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("entropy-sign", "OBJ317", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.by_distributions:
        coefficients = [
            term.coefficient
            for term in estimator.terms
            if any(f.base == estimator.leaf and f.exponent == 1 for f in term.factors)
            and not any("v" in f.base.indices for f in term.factors if f.base != estimator.leaf)
        ]
        if coefficients and min(coefficients) > 0:
            yield rule.finding(
                "this term lowers the entropy of the policy",
                reading(facts, estimator.leaf.policy, live=True, kinds=(LogDist,)),
                under="with the wrong sign",
                gradient="lowers the entropy of the next-token distribution",
                consequence="likely tokens become likelier, whatever the reward is",
                help="change the sign",
                fine_if="the entropy should be lowered",
            )
