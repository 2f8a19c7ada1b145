"""A penalty against a frozen policy has no gradient in expectation.

**What.** `log(pi / ref)`, the k1 estimator, in the loss; or any other term from which the frozen
policy vanishes when it is differentiated.

**Why.** `d log(pi / ref) / d log pi = 1`: the frozen policy drops out, and the expectation of a
constant times the score is 0. The same holds for any number that depends only on the tokens
before, such as a KL over the vocabulary inside `sg`. On average the penalty does nothing, with a
variance many times the squared norm of the intended gradient. Off policy its gradient is that of
minus KL(mu || pi): it pushes pi away from the sampler.

**Fine if** never; a value that should only be logged belongs in a `report`.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - beta * k1(pi, ref))

**Instead.** `k2(pi, ref)`, whose gradient is that of the reverse KL; k1 in the reward; or k1 or k3
times the live ratio `pi / mu`.

**Papers.** A Comedy of Estimators, arXiv:2512.21852; http://joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.idle import brought
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading, swapped
from objdsl.lint.rule import Rule, rule


@rule("kl-without-gradient", "OBJ301", Severity.ERROR, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    idle = {policy: part for part in reversed(facts.idle) for policy in part.policies}
    for policy in frozen(facts.objective):
        if policy in idle:
            term = idle[policy].node
            yield rule.finding(
                "this penalty has no gradient in expectation",
                term.span or facts.objective.goal.span,
                under="contributes a weight that is known before the token is sampled",
                weight=f"adds {facts.written(brought(idle[policy]))} to w",
                value=f"a function of the distance between pi and {policy}",
                gradient="0, except for the lengths that divide it"
                if idle[policy].lengths
                else "0 in expectation on policy: it is a baseline",
                consequence=f"nothing keeps the policy near {policy}",
                help=f"use the KL over the vocabulary without sg(...); or k2(pi, {policy})",
            )
        elif _reads(facts.objective.goal, policy) and not any(
            _reads(w, policy) for w in facts.weights.values()
        ):
            yield rule.finding(
                f"`{policy}` drops out of the gradient of this penalty",
                reading(facts, policy),
                under=f"d / d log(pi) does not contain {policy}",
                value=f"an unbiased estimate of KL(pi || {policy}), on policy",
                gradient="0 in expectation on policy; off policy it drives pi away from mu",
                consequence="noise is added to the gradient, and nothing keeps the policy near "
                f"{policy}",
                help=f"k2(pi, {policy}) has the gradient of the KL, and so does k1 in the reward",
                fix=swapped(facts, "k1", "k2", policy),
            )


def _reads(expr: n.Expr, policy: str) -> bool:
    return any(
        isinstance(node, n.LogProb | n.LogDist) and node.policy == policy
        for node in n.topological(expr)
    )
