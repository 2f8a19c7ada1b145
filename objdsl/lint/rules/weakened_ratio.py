"""The denominator of a ratio moves with the policy: the ratio moves less than it seems.

**What.** `pi / prox` with a proximal policy between `pi` and `old`, such as `pi^0.3 * mu^0.7`,
that is not inside `sg`; or a root of a ratio, `(pi / old)^0.5`.

**Why.** The ratio is `(pi / mu)^k` with k below 1. Its gradient is k times that of the ratio, and
where it is clipped at 1.2, `pi / mu` is at 1.2^(1/k): 1.44 with k = 0.5. The effective learning
rate and bounds are not the ones written down.

**Fine if** both were chosen with that in mind.

**Example.**

    prox = pi^0.3 * mu^0.7
    maximize mean[p,i,t] surrogate(pi / prox, A, 1 - eps, 1 + eps)

**Instead.** `pi / sg(prox)`.

**Papers.** Decoupled PPO, arXiv:2110.00641; AReaL's log-linear approximation of the proximal
policy, which stops the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TypeGuard

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.algebra.symbols import OfTokens, Opaque
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.build import factors, product
from objdsl.ir.indices import TOKEN
from objdsl.lint.rule import Rule, rule


@rule("weakened-ratio", "OBJ419", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    opaque: dict[n.Expr, n.Expr] = {}
    for estimator in facts.rewarded:
        powers = _of_probabilities(facts)
        parts = _parts_of_whole(facts, powers, estimator.leaf, opaque)
        for node in powers:
            if node in parts:
                continue
            power = _power(node, estimator.leaf, facts.near_policy, opaque)
            if power is None:
                continue
            yield rule.finding(
                f"this ratio contains `{estimator.leaf.policy}` to the power {power:g}",
                node.span,
                under="its denominator moves with the policy",
                value=f"where it is 1.2, the policy has moved by {1.2 ** (1 / power):.3g}",
                gradient=f"{power:g} times that of a ratio",
                help="put sg(...) around the denominator",
                fine_if="the learning rate and the bounds were chosen with that in mind",
            )
            return


def _of_probabilities(facts: Facts) -> list[n.Expr]:
    """The values with a gradient that are in the file and are products of powers of
    probabilities."""
    powers: set[n.Expr] = set()
    for node in n.topological(facts.objective.goal):
        match node:
            case n.LogProb() | n.Const() | n.Param() | n.Stop():
                powers.add(node)
            case n.Unary("exp" | "log" | "neg" | "sqrt") | n.Binary(
                "add" | "sub" | "mul" | "div" | "pow"
            ) if powers.issuperset(node.children):
                powers.add(node)
    kinds = (n.Unary, n.Binary)
    return [
        node for node in facts.passing if node in powers and node.span and isinstance(node, kinds)
    ]


def _parts_of_whole(
    facts: Facts, ratios: list[n.Expr], leaf: n.Expr, opaque: dict[n.Expr, n.Expr]
) -> set[n.Expr]:
    """The ratios among the factors of a product that together are a whole one: `sqrt(r) * A *
    sqrt(r)` contains `r`."""
    known, parts = set(ratios), set[n.Expr]()
    for node in facts.passing:
        if not isinstance(node, n.Binary) or node.op not in ("mul", "div") or node in known:
            continue
        _, above, below = factors(node)
        above, below = ([node for node in many if node in known] for many in (above, below))
        if len(above) + len(below) < 2:
            continue
        if _power(product(above, below), leaf, facts.near_policy, opaque) is None:
            parts.update(n.topological(*above, *below))
    return parts


def _power(x: n.Expr, leaf: n.Expr, near: Expand, opaque: dict[n.Expr, n.Expr]) -> float | None:
    """The power of the policy in a ratio of its versions, as far as it has a gradient, if that is
    less than 1. `opaque` has the known formulas without the parts behind `sg`."""
    try:
        powers = _powers(x, near)
        if abs(sum(powers.values())) > 1e-9 or not all(isinstance(x, OfTokens) for x in powers):
            return None
        power = _powers(n.bottom_up(x, opaque, partial(_opaque, opaque)), near).get(leaf, 0.0)
    except TooLargeError:
        return None
    return power if 0 < power < 1 else None


def _powers(x: n.Expr, near: Expand) -> dict[n.Expr, float]:
    """The powers of the factors of a product, exponentials by their exponents."""
    only = near(x).product
    if only is None or only[1] != 1:
        return {}
    return {base.x if _is_exp(base) else base: e for base, e in only[0]}


def _is_exp(base: n.Expr) -> TypeGuard[n.Unary]:
    return isinstance(base, n.Unary) and base.op == "exp"


def _opaque(known: dict[n.Expr, n.Expr], x: n.Expr) -> n.Expr:
    """A formula in which everything behind `sg` is one opaque value."""
    return Opaque(0, TOKEN) if isinstance(x, n.Stop) else x.rebuilt(known)
