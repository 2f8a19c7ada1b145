"""Part of the formula overflows float32, or underflows in a divisor, on realistic data.

**What.** `log(sigmoid(x))`, `log(1 + exp(x))`, `1 / (1 + exp(-x))` or a softmax, where the scores
are sums over a response; a product of ratios to a policy that did not sample; `exp(reward / tau)`
with a small tau; `log(1 - pi)`.

**Why.** In float32 `exp(89)` is infinite and `exp(-104)` is 0. The derivative of a formula that
contains either is a quotient of the two: NaN in every weight of the model. Ratios to the sampler
are safe: `E[pi / mu] = 1`, so a ratio above `e^20` has a probability below 2e-9. Ratios to other
policies are not safe, and neither are differences of scores: 4000 tokens with a KL of 0.05 each
add up to 200. Values that a `min`, a `clip` or a condition excludes are not evaluated, and not
reported here.

**Fine if** responses are short, and the policies stay close.

**Example.**

    maximize mean[p] log(sigmoid(beta * margin))

**Instead.** `logsigmoid(x)`, which is exact; `exp(min(x, 20))`, which has no gradient above the
bound; `reward - max[i] reward` in an exponent.

**Papers.** verl clamps log-ratios at 20 before taking the exponential.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import Kind, match_link
from objdsl.analysis.values.constants import not_finite
from objdsl.analysis.values.ranges import Cause, Fault
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.rule import Rule, rule
from objdsl.lint.rules.unbounded_product import unclipped_products


@rule("beyond-float32", "OBJ612", Severity.WARNING, Claim.NUMERICS)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    goal = facts.objective.goal
    reported = set(unclipped_products(goal)) if facts.rewarded else set()
    reported |= {node for node, _ in not_finite(facts.objective)}
    for node, fault in _faults(facts):
        if isinstance(node, n.Reduce) or node in reported or facts.extremes.is_response(node):
            continue  # product-outside-logs, unbounded-product
        reported.add(node)
        logistic = _logistic(goal, node)
        yield rule.finding(
            "this overflows float32 on realistic data"
            if fault is Fault.OVERFLOW
            else "this divisor underflows to 0 in float32 on realistic data",
            node.span or goal.span,
            under=fault.value,
            consequence="the weight is infinite or NaN, and with it every weight of the model",
            help="logsigmoid(...), which is exact" if logistic else "bound it: exp(min(..., 20))",
            fine_if="responses are short, and the policies stay close",
            fix=_fix(logistic),
        )


def _faults(facts: Facts) -> list[Cause]:
    """The nodes that make a weight or the value infinite: those that overflow, or else those that
    underflow to 0."""
    causes = {cause for bound in facts.ranges if not bound.finite for cause in bound.causes}
    nodes = n.topological(*facts.objective.roots)
    written = {node: node for node in nodes if node.span is not None}
    for fault in Fault:
        faults = [
            (written[node], fault) for node, kind in causes if kind is fault and node in written
        ]
        if faults:
            return sorted(faults, key=lambda cause: cause[0].key)
    return []


def _logistic(goal: n.Expr, node: n.Expr) -> n.Expr | None:
    """The written-out logarithm of a sigmoid that a value is part of."""
    for log in n.topological(goal):
        link = match_link(log) if isinstance(log, n.Unary) and log.op == "log" else None
        if link is not None and link[0] is Kind.LOGISTIC and node in n.topological(log):
            return log
    return None


def _fix(logistic: n.Expr | None) -> Fix | None:
    match logistic:
        case n.Unary("log", n.Unary("sigmoid", x)) if (
            logistic.span is not None and x.span is not None
        ):
            edit = Edit(logistic.span, f"logsigmoid({x.span.text})")
            return Fix("use logsigmoid", (edit,), safe=True)
    return None
