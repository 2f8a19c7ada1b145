"""A mean of token ratios is used where the ratio of the response is meant.

**What.** `mean[t] (pi / old)`, on its own or in a clip, a mask, a power or a logarithm; or the
same sum divided by `|y|`.

**Why.** Given the tokens before it, a token's `pi / mu` has expectation 1 under `mu`, *whatever pi
is*. So has the mean over the response: it measures how noisy the ratios are, not how far the
policy has moved. The geometric mean does measure that: its logarithm is `mean[t] log(pi / mu)`,
whose expectation is minus the KL per token. A bound on one does not bound the other: a token with
ratio 50 among 99 with ratio 0.5 has the mean 0.995, inside any clip, while the response has become
2^-93 times as likely.

**Fine if** the mean is only monitored: a `report` is not checked.

**Example.**

    maximize mean[p,i] surrogate(mean[t] (pi / old), A, 1 - eps, 1 + eps)

**Instead.** `geo(pi / old)`; or the clip inside the mean, `mean[t] surrogate(pi / old, A, ...)`.

**Papers.** GSPO, arXiv:2507.18071, eq. 7, has the geometric mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.first_order import Reach, reach
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.places import head
from objdsl.lint.rule import Rule, rule


@rule("mean-of-ratios", "OBJ617", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    expand = Expand({param.name: param.default for param in facts.objective.params})
    seen: set[n.Expr] = set()
    for node in n.topological(facts.objective.goal):
        for bounded in _bounded(node):
            mean = _mean_of_ratios(bounded, expand)
            if mean is None or mean in seen:
                continue
            seen.add(mean)
            yield rule.finding(
                "this is a mean of token ratios, not the ratio of the response",
                head(mean) or node.span or facts.objective.goal.span,
                under="has expectation 1, whatever the policy is",
                consequence="it measures how noisy ratios are, not how far the policy has moved: "
                "the bound does not limit that",
                help="use geo(...), the geometric mean",
                fine_if="it is meant to detect noisy ratios",
                fix=_fix(mean),
            )


def _bounded(node: n.Expr) -> tuple[n.Expr, ...]:
    """The operands of a node that it bounds, compares or is otherwise not linear in."""
    match node:
        case n.Clip(x, _, _) | n.Unary("log" | "abs", x) | n.Binary("pow", x, _):
            return (x,)
        case n.Binary(op, a, b) if op in n.COMPARISONS or op in ("min", "max"):
            return a, b
    return ()


def _mean_of_ratios(x: n.Expr, expand: Expand) -> n.Expr | None:
    """The mean of ratios that a value is a multiple of; None for other values."""
    match x:
        case n.Unary("neg", a) | n.Stop(a):
            return _mean_of_ratios(a, expand)
        case n.Binary("add" | "sub" | "mul" | "div", a, b) if not b.indices:
            return _mean_of_ratios(a, expand)
        case n.Binary("add" | "sub" | "mul", a, b) if not a.indices:
            return _mean_of_ratios(b, expand)
        case n.Reduce("mean", ("t",), inner, None) as mean if _corrects(inner):
            return mean if reach(expand(inner), expand) == {Reach.TOKEN} else None
        case n.Binary("div", n.Reduce("sum", ("t",), inner, None) as total, n.Length()):
            if _corrects(inner) and reach(expand(inner), expand) == {Reach.TOKEN}:
                return total
    return None


def _corrects(ratio: n.Expr) -> bool:
    """Whether a ratio has the policy that sampled below the line, and the current one above it."""
    match ratio:
        case n.Unary("exp", n.Binary("sub", a, n.LogProb("old" | "mu"))):
            return a.current or isinstance(a, n.LogProb)
    return False


def _fix(mean: n.Expr) -> Fix | None:
    span = mean.span
    if not isinstance(mean, n.Reduce) or mean.op != "mean" or span is None or mean.x.span is None:
        return None
    return Fix("take the geometric mean", (Edit(span, f"geo({mean.x.span.text})"),))
