"""Clipping a penalty also removes its gradient, exactly where the penalty is needed.

**What.** `clip` or `min` around an estimate of a divergence from a frozen policy, outside `sg`.

**Why.** Beyond the bound the clip has no gradient. The penalty is meant for policies that have
moved far away, and for those it does nothing: k3 > 10 is a log-ratio beyond 2.6.

**Fine if** the bound is out of reach and only prevents overflow.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - beta * clip(k3(pi, ref), -10, 10))

**Instead.** An estimator whose gradient does not grow too fast, such as k2's, which grows
linearly.

**Papers.** verl and TRL clip k3 in this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("clipped-penalty", "OBJ311", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    policies = set(frozen(facts.objective))
    known: dict[n.Expr, frozenset[str]] = {}
    for node in facts.passing:
        clipped = _match_clipped(node)
        if clipped is None:
            continue
        read = n.bottom_up(clipped, known, partial(_read, known)) & policies
        if read:
            yield rule.finding(
                f"beyond this bound the penalty against `{min(read)}` has no gradient",
                node.span,
                under="no gradient beyond the bound",
                consequence="a policy that has moved far away is no longer pulled back",
                help=f"k2(pi, {min(read)}) needs no bound: its gradient grows linearly",
                fine_if="the bound is out of reach",
            )
            return


def _match_clipped(node: n.Expr) -> n.Expr | None:
    """The operand of a clip, or of a minimum with a constant."""
    match node:
        case n.Clip(x):
            return x
        case n.Binary("min", x, bound) | n.Binary("min", bound, x) if not bound.indices:
            return x
    return None


def _read(known: dict[n.Expr, frozenset[str]], node: n.Expr) -> frozenset[str]:
    """The policies that a value reads, when that is known of its operands."""
    policies = {node.policy} if isinstance(node, n.LogProb) else ()
    return frozenset(policies).union(*(known[child] for child in node.children))
