"""The column that plays the role of the reward, if none has its name.

Frameworks name rewards in any way, and a file declares them: `given score[p,i]`. If responses are
sampled, no `reward` is read, and one declared column of responses is more than a mask, then there
is nothing else that the gradient can follow.
"""

from __future__ import annotations

from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.gradient.links import PREFERRED
from objdsl.ir.columns import is_critic
from objdsl.ir.indices import RESPONSE, TOKEN
from objdsl.ir.objective import Objective


def signal(objective: Objective) -> n.Column | None:
    """The declared column that is the reward, if there is one."""
    if objective.rewards or not samples(objective):
        return None
    columns = [column for column in candidates(objective) if column.over == RESPONSE]
    return columns[0] if len(columns) == 1 else None


def candidates(objective: Objective) -> tuple[n.Column, ...]:
    """The declared columns of responses and tokens that are more than a mask, if the goal reads
    them."""
    nodes = n.topological(objective.goal)
    values = {child for node in nodes if not node.boolean for child in node.children}
    return tuple(
        node
        for node in nodes
        if isinstance(node, n.Column)
        and node in values
        and node.over in (RESPONSE, TOKEN)
        and not (node.mask or node.trained or is_critic(node) or node.name in PREFERRED)
    )


def samples(objective: Objective) -> bool:
    """Whether responses are sampled from a version of the policy, and not given with the data."""
    policies = {x.policy for x in n.topological(objective.goal) if isinstance(x, n.LogProb)}
    return objective.sampling.span is not None or not policies.isdisjoint(("old", "mu"))


def with_reward(objective: Objective, column: n.Column) -> Objective:
    """The objective as if it declared the column `as reward`."""
    return objective.replaced({column: replace(column, role="reward")})
