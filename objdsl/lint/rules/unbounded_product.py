"""An unbounded product of ratios over the response.

**What.** `prod[t] (pi / old)`, or the exponential of a sum of log-ratios, that no minimum, clip or
mask bounds.

**Why.** For T tokens whose ratios have the variance c, its variance is `(1 + c)^T - 1`: with c =
0.02, 0.2 at 10 tokens, 6 at 100, 4e8 at 1000. A single response dominates the step.

**Fine if** responses are a few tokens long.

**Example.**

    maximize mean[p,i] (A * prod[t] (pi / mu))

**Instead.** `min(W, C)`, a mask `W if W < C else 0`, the token's own ratio, or `geo`.

**Papers.** TIS and MIS (truncated and masked); GSPO, arXiv:2507.18071 (geometric mean).
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.bounds import bounds
from objdsl.ir.build import ZERO, negation
from objdsl.ir.differentiate import clipped_surrogate
from objdsl.lint.rule import Rule, rule


@rule("unbounded-product", "OBJ611", Severity.WARNING, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    held_from_above = set(_held_from_above(facts.objective.goal))
    for node in unclipped_products(facts.objective.goal):
        if facts.extremes.is_response(node):
            continue  # product-outside-logs
        beside = node in held_from_above
        yield rule.finding(
            "nothing bounds this product of ratios over the response"
            if not beside
            else "nothing bounds the ratio of the response where the advantage is negative",
            node.span,
            under="grows with the length",
            consequence="at 1000 tokens, a single response dominates the step",
            value="unbiased, with a variance that grows exponentially with the length",
            gradient="the same",
            help="truncate it, mask it, or take the geometric mean",
            fine_if="responses are a few tokens long",
        )


def unclipped_products(goal: n.Expr) -> list[n.Expr]:
    """Products of ratios that reach the goal by a path without a bound."""
    unbounded: dict[n.Expr, None] = {}
    products = _products(goal)
    seen: set[tuple[n.Expr, frozenset[n.Expr]]] = set()
    # A part of the goal, with the values that are never negative in the branch that it stands in.
    stack: list[tuple[n.Expr, frozenset[n.Expr]]] = [(goal, frozenset())]
    while stack:
        node, positive = state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        if node in products:
            unbounded[node] = None
            continue
        match node:
            case n.Binary("min" | "max") if _open_below(node, positive):
                # The minimum takes the product itself, where the advantage is negative.
                stack += [(x, positive) for x in node.children]
            case (
                n.Binary("min" | "max")
                | n.Clip()
                | n.Unary("exp" | "sigmoid" | "logsigmoid" | "log")
            ):
                pass
            case n.Where(m, a, b):
                masked = products.intersection(n.topological(m))
                for x, never_below in ((a, _positive(m)), (b, _positive(negation(m)))):
                    if not masked or masked.isdisjoint(n.topological(x)):
                        stack.append((x, positive | never_below))
            case _ if not node.boolean:
                stack += [(x, positive) for x in node.children]
    return [node for node in unbounded if node.span is not None]


def _positive(mask: n.Expr) -> frozenset[n.Expr]:
    """The values that are never negative where a mask holds, as far as its form shows."""
    match mask:
        case n.Binary("gt" | "ge", x, zero) | n.Binary("lt" | "le", zero, x) if zero == ZERO:
            return frozenset({x})
        case n.Unary("not", n.Binary("lt" | "le", x, zero) | n.Binary("gt" | "ge", zero, x)) if (
            zero == ZERO
        ):
            return frozenset({x})
        case n.Binary("and", a, b):
            return _positive(a) | _positive(b)
    return frozenset()


def _open_below(node: n.Binary, positive: frozenset[n.Expr] = frozenset()) -> bool:
    """Whether it is a clipped surrogate of an advantage that may be negative."""
    surrogate = clipped_surrogate(node)
    if surrogate is None or surrogate[1] in positive:
        return False
    return bounds(surrogate[1])[0] < 0


def _held_from_above(goal: n.Expr) -> Iterator[n.Expr]:
    """The products of ratios in clipped surrogates, which bound them for positive advantages."""
    products = _products(goal)
    for node in n.topological(goal):
        if isinstance(node, n.Binary) and node.op in ("min", "max") and _open_below(node):
            yield from products.intersection(n.topological(node))


def _products(goal: n.Expr) -> set[n.Expr]:
    """The exponentials of sums over tokens of log-probabilities."""
    products: set[n.Expr] = set()
    reads = n.holding(lambda node: isinstance(node, n.LogProb), goal)
    sums: set[n.Expr] = set()
    for node in n.topological(goal):
        if _sums_ratios(node, sums, reads):
            sums.add(node)
        if isinstance(node, n.Unary) and node.op == "exp" and node.x in sums:
            products.add(node)
    return products


def _sums_ratios(x: n.Expr, sums: set[n.Expr], reads: set[n.Expr]) -> bool:
    """Whether a sum over tokens of log-probabilities is a term, as it is or times a number; when
    that is known of the operands."""
    match x:
        case n.Reduce("sum", over, inner, _) if "t" in over:
            return inner in reads
        case n.Binary("add" | "sub", a, b):
            return a in sums or b in sums
        case n.Unary("neg", inner) | n.Stop(inner):
            return inner in sums
        case n.Binary("mul", a, b) if not a.indices or not b.indices:
            return a in sums or b in sums
    return False
