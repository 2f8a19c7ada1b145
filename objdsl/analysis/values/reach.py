"""What a goal is made of, as far as it matters: masks, stops and parts without rewards left out."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.analysis.values.dependence import is_reward
from objdsl.ir.columns import is_critic


def reached(goal: n.Expr, *, live: bool, rewarded: bool) -> dict[n.Expr, n.Expr]:
    """The values that a goal is made of, and no masks. With `live` those that pass a gradient on;
    with `rewarded`, of a sum the parts alone that hold a reward or a critic's value, if some do.

    Each is named by itself: of nodes that are equal, another may stand elsewhere in the text.
    """
    holds = n.holding(_is_expected, goal) if rewarded else set()
    found: dict[n.Expr, n.Expr] = {}
    stack = [goal]
    while stack:
        node = stack.pop()
        if node not in found and not node.boolean and (node.live or not live):
            found[node] = node
            parts = node.children
            if isinstance(node, n.Binary) and node.op in ("add", "sub"):
                parts = tuple(part for part in parts if part in holds) or parts
            stack += reversed(parts)
    return found


def _is_expected(node: n.Expr) -> bool:
    return is_reward(node) or is_critic(node)
