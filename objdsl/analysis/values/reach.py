"""Subexpressions that contribute to a goal, or to its gradient."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.analysis.values.dependence import is_reward
from objdsl.ir.columns import is_critic


def reached(goal: n.Expr, *, live: bool, rewarded: bool) -> dict[n.Expr, n.Expr]:
    """The values that a goal is made of, without masks. With `live`, only those that pass a
    gradient on; with `rewarded`, only those summands of a sum that read a reward or a critic's
    value, if any do.

    Each is mapped to itself: an equal node may stand elsewhere in the text.
    """
    holds = n.holding(_is_expected, goal) if rewarded else set()
    parts_of_goal: dict[n.Expr, n.Expr] = {}
    stack = [goal]
    while stack:
        node = stack.pop()
        if node not in parts_of_goal and not node.boolean and (node.live or not live):
            parts_of_goal[node] = node
            parts = node.children
            if isinstance(node, n.Binary) and node.op in ("add", "sub"):
                parts = tuple(part for part in parts if part in holds) or parts
            stack += reversed(parts)
    return parts_of_goal


def _is_expected(node: n.Expr) -> bool:
    return is_reward(node) or is_critic(node)
