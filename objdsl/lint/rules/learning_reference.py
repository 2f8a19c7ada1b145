"""The reference of a ratio is trained too, in the opposite direction.

**What.** `log(pi / early)` where both policies have a gradient: `early` is read off a layer of
`pi`, without `sg` around it.

**Why.** The derivative with respect to the reference is that with respect to the policy, with the
opposite sign. What pulls the policy towards a reference also pulls the reference towards the
policy; what raises a response under a preference loss lowers it under the reference. The two share
their weights, so what remains of a step is the difference of two gradients, not the gradient of a
policy compared with something fixed.

**Fine if** the two are meant to learn from each other.

**Example.**

    policy early = pi at layer 6
    maximize mean[p,i] sum[t] (A * log(pi) - beta * k2(pi, early))

**Instead.** `k2(pi, sg(early))`. `ref`, `old` and `mu` have no gradient, whatever is written.

**Papers.** DPO, arXiv:2305.18290, section 4: the reference is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.ir.objective import Objective
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("learning-reference", "OBJ709", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if len({leaf.policy for leaf in facts.weights if isinstance(leaf, n.LogProb | n.LogDist)}) < 2:
        return
    trained: dict[n.Expr, frozenset[str]] = {}
    n.bottom_up(facts.objective.goal, trained, partial(_trained, trained))
    for node in reversed(facts.passing):
        if not isinstance(node, n.Binary) or node.op != "sub":
            continue
        policy, reference = trained[node.a], trained[node.b]
        if _compares(node, policy, reference, facts.objective):
            span = node.b.span
            plain = span is not None and isinstance(node.b, n.LogProb | n.LogDist)
            yield rule.finding(
                f"`{min(reference)}` is trained too, in the opposite direction",
                span or node.span or reading(facts, min(reference), live=True),
                under="has a gradient of its own",
                gradient="that of the policy, minus that of its reference",
                help=f"use sg({min(reference)})",
                fine_if="the two are meant to learn from each other",
                fix=Fix("stop its gradient", (Edit(span, f"sg({span.text})"),))
                if plain and span
                else None,
            )
            return


def _compares(
    node: n.Expr, policy: frozenset[str], reference: frozenset[str], objective: Objective
) -> bool:
    """Whether a difference is that of two trained policies: of one with itself it would be 0."""
    if len(policy) != 1 or len(reference) != 1 or policy == reference:
        return False
    params = {param.name: param.default for param in objective.params}
    try:
        left = Expand(params, dict.fromkeys(reference, min(policy)))(node)
    except TooLargeError:
        return False
    return not any(isinstance(x, n.LogProb | n.LogDist) for x in n.topological(left.expr()))


def _trained(known: dict[n.Expr, frozenset[str]], node: n.Expr) -> frozenset[str]:
    """The policies whose gradient a value passes on, when that is known of its operands."""
    if not node.live:
        return frozenset()
    policies = {node.policy} if isinstance(node, n.LogProb | n.LogDist) else ()
    return frozenset(policies).union(*(known[child] for child in node.children))
