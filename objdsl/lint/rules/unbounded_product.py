"""A product of ratios over the response, and nothing that bounds it.

**What.** `prod[t] (pi / old)`, or the exponential of a sum of log-ratios, that no minimum, clip
or mask holds.

**Why.** Its variance is `(1 + c)^T - 1` for T tokens whose ratios have the variance c: with c =
0.02, 0.2 at 10 tokens, 6 at 100, 4e8 at 1000. One response takes the step.

**Fine if** responses are a few tokens long.

**Example.**

    maximize mean[p,i] (A * prod[t] (pi / mu))

**Instead.** `min(W, C)`, a mask `W if W < C else 0`, the token's own ratio, or `geo`.

**Papers.** TIS and MIS (truncated and masked); GSPO, arXiv:2507.18071 (geometric mean).
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Expr,
    LogProb,
    Reduce,
    Stop,
    Unary,
    Where,
    holding,
    topological,
)
from objdsl.lint.rule import Rule, rule


@rule("unbounded-product", "OBJ611", Severity.WARNING, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    for node in unheld(facts.objective.goal):
        if facts.extremes.is_response(node):
            continue  # product-outside-logs
        yield rule.finding(
            "a product of ratios over the response, and nothing that bounds it",
            node.span,
            under="grows with the length",
            consequence="at 1000 tokens one response takes the step",
            value="unbiased, with a variance that grows exponentially with the length",
            gradient="likewise",
            help="truncate it, mask it, or take the geometric mean",
            fine_if="responses are a few tokens long",
        )


def unheld(goal: Expr) -> list[Expr]:
    """Products of ratios that reach the goal by a path without a bound."""
    found: dict[Expr, None] = {}
    products = _products(goal)
    seen: set[Expr] = set()
    stack = [goal]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in products:
            found[node] = None
            continue
        match node:
            case Binary("min" | "max") | Clip() | Unary("exp" | "sigmoid" | "logsigmoid" | "log"):
                continue
            case Where(m, a, b):
                masked = products.intersection(topological(m))
                stack += [x for x in (a, b) if not masked or masked.isdisjoint(topological(x))]
                continue
        if not node.boolean:
            stack += node.children
    return [node for node in found if node.span is not None]


def _products(goal: Expr) -> set[Expr]:
    """The exponentials of sums over tokens of log-probabilities."""
    found: set[Expr] = set()
    reads = holding(lambda node: isinstance(node, LogProb), goal)
    sums: set[Expr] = set()
    for node in topological(goal):
        if _sums_ratios(node, sums, reads):
            sums.add(node)
        if isinstance(node, Unary) and node.op == "exp" and node.x in sums:
            found.add(node)
    return found


def _sums_ratios(x: Expr, sums: set[Expr], reads: set[Expr]) -> bool:
    """Whether a sum over tokens of log-probabilities is a term, as it is or times a number; when
    that is known of the operands."""
    match x:
        case Reduce("sum", over, inner, _) if "t" in over:
            return inner in reads
        case Binary("add" | "sub", a, b):
            return a in sums or b in sums
        case Unary("neg", inner) | Stop(inner):
            return inner in sums
        case Binary("mul", a, b) if not a.indices or not b.indices:
            return a in sums or b in sums
    return False
