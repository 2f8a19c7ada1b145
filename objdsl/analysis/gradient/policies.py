"""Formulas as sums of products: on policy, close to it, and anywhere."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.ir.objective import Objective


def frozen(objective: Objective) -> list[str]:
    """The policies of an objective that neither learn nor sample."""
    learn_or_sample = {"pi", "old", "mu", objective.sampling.policy}
    learn_or_sample |= {policy.name for policy in objective.policies if policy.of}
    return sorted(n.policies_in(*objective.nodes) - learn_or_sample)


def on_policy(objective: Objective) -> Expand:
    """An expansion in which all versions of the trained policy are equal."""
    same = {name: "pi" for name in ("old", "mu", objective.sampling.policy) if name != "pi"}
    # On policy, an inner policy of the old weights equals that of the new ones.
    layers = {(hidden.of, hidden.depth): name for name, hidden in objective.hidden.items()}
    for name, hidden in objective.hidden.items():
        if hidden.of in same and ("pi", hidden.depth) in layers:
            same[name] = layers["pi", hidden.depth]
    return _expansion(objective, same)


def near_policy(objective: Objective, at: Expand) -> Expand:
    """An expansion that keeps the policies apart, and is right in a neighbourhood of on policy,
    `at`."""
    expand = _expansion(objective, {})
    expand.at = at
    return expand


def far_policy(objective: Objective) -> Expand:
    """An expansion that keeps the policies apart, wherever they are: clips stay clips."""
    return _expansion(objective, {})


def _expansion(objective: Objective, same: dict[str, str]) -> Expand:
    nodes = [node for node in objective.nodes if isinstance(node, n.LogProb | n.LogDist)]
    trained = frozenset(node.policy for node in nodes if node.trained)
    params = {param.name: param.default for param in objective.params}
    return Expand(params, same, dict.fromkeys(frozen(objective), "pi"), trained=trained)
