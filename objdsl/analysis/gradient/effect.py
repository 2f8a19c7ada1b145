"""Which rewards have an effect on the weights, and whether the goal corrects for older weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import objdsl.ir.nodes as n
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Term
from objdsl.analysis.values.reach import reached


def own_rewards(terms: Iterable[Term]) -> set[str]:
    """The names of the rewards that terms follow, and of those of the response itself that they are
    functions of."""
    names = set()
    for term in terms:
        if term.reward is not None:
            names.add(term.reward.name)
        for factor in term.factors:
            if factor.depends.on_response and not factor.depends.pooled:
                names |= factor.depends.rewards
    return names


def weighs_distribution(estimator: Estimator) -> bool:
    """Whether a reward weights the gradient of a distribution, differently for its entries."""
    # A weight that is the same for all entries has no gradient: `sum_v pi_v grad log pi_v = 0`.
    return any(
        term.reward is not None
        or any(f.exponent > 0 and f.depends.rewards and not f.base.boolean for f in term.factors)
        for term in estimator.terms
        if any("v" in factor.base.indices for factor in term.factors)
    )


def reads_sampling_ratio(goal: n.Expr, samplers: Collection[str]) -> bool:
    """Whether a goal has a ratio of the policy to one that sampled, in a term with rewards."""
    logarithms: set[n.Expr] = set()
    for node in n.topological(goal):
        match node:
            case n.LogProb() | n.Const() | n.Param() | n.Length():
                logarithms.add(node)
            case (
                n.Reduce("sum" | "mean", ("t",))
                | n.Scan()
                | n.Stop()
                | n.Unary("neg")
                | n.Binary("add" | "sub" | "mul" | "div")
            ) if logarithms.issuperset(node.children):
                logarithms.add(node)
    ratios = (
        node
        for node in reached(goal, live=False, rewarded=True)
        if node in logarithms and node.live and isinstance(node, n.Binary)
    )
    return any(
        isinstance(leaf, n.LogProb) and leaf.policy in samplers
        for node in ratios
        for leaf in n.topological(node)
    )
