"""What is the same for all tokens of a key counts once for each of them.

**What.** A mean over tokens of a value that all tokens of a turn share (or of whatever the key
tells apart), such as `mean[t] exp(sum[t by turn] log(pi / old))`.

**Why.** Each turn has the weight of its length: with turns of 3 tokens and of 1 whose values are 1
and 0, the mean over tokens is 0.75, and the mean over turns 0.5.

**Fine if** long turns should weigh more.

**Example.**

    r = exp(sum[t by turn] log(pi / old))
    maximize mean[p,i] (A * mean[t] r)

**Instead.** `mean[t | first(turn)] r`, the mean over the turns of the response.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import head
from objdsl.lint.rule import Rule, rule

Keys = tuple[n.Expr, ...]


@rule("repeated-key", "OBJ115", Severity.NOTE, Claim.STYLE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    known: dict[n.Expr, set[Keys] | None] = {}
    for node in n.topological(facts.objective.goal):
        if not isinstance(node, n.Reduce | n.Peers) or node.op != "mean" or node.over[-1] != "t":
            continue
        keys = _keys_of(node.x, known)
        if keys is None or len(keys) != 1 or _picks_one(node.where, *keys):
            continue
        (key,) = keys
        named = ", ".join(map(facts.written, key))
        first = f"first({named})" if len(key) == 1 else f"t == min[t by {named}] t"
        yield rule.finding(
            f"each value of `{named}` counts as often as it has tokens",
            head(node),
            under=f"all tokens with the same `{named}` have the same value",
            help=f"`mean[{','.join(node.over)} | {first}]` counts each once",
            fine_if="long ones should weigh more",
        )


def _keys_of(x: n.Expr, known: dict[n.Expr, set[Keys] | None]) -> set[Keys] | None:
    """The keys whose tokens all have the same value; None if it also differs between those.

    Args:
        known: the answers so far, for values that are used more than once.
    """

    def answer(node: n.Expr) -> set[Keys] | None:
        if "t" not in node.indices:
            return set()
        match node:
            case n.Peers(_, ("t",), relation="", keys=keys):
                return {keys}
            case n.Unary() | n.Binary() | n.Clip() | n.Where() | n.Stop():
                of_children = [known[child] for child in node.children]
                shared = [keys for keys in of_children if keys is not None]
                return set().union(*shared) if len(shared) == len(of_children) else None
        return None

    return n.bottom_up(x, known, answer)


def _picks_one(mask: n.Expr | None, keys: Keys) -> bool:
    """Whether a mask compares positions with those at which the keys' values begin or end."""
    return mask is not None and any(
        isinstance(node, n.Peers) and node.op in ("min", "max") and node.keys == keys
        for node in n.topological(mask)
    )
