"""The squared margin of a preference compares sums over tokens with a fixed target.

**What.** `(margin - 1 / (2 * beta))^2` with log-ratios that are summed over their responses.

**Why.** The target `1 / (2 * beta)` is the same number for all pairs. A sum over 1000 tokens
reaches it when each token has moved by a thousandth of it, a sum over 10 tokens by a tenth: long
responses are hardly trained, and one token too many changes the sign of the residual. The paper
prints the probability of the response; its authors have since said that the log-ratios are
averaged.

**Fine if** the formula should be as printed, or all responses have about the same length. A target
that is a difference of rewards belongs to whole responses, and is not reported.

**Example.**

    h = sum[t] log(pi / ref)
    margin = mean[i | chosen] h - mean[i | not chosen] h
    minimize mean[p] ((margin - 1 / (2 * beta))^2)

**Instead.** `h = mean[t] log(pi / ref)`.

**Papers.** IPO, arXiv:2310.12036, eq. 17; TRL's `loss_type="ipo"` divides by the length.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import Kind, Link
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.places import head, reading
from objdsl.lint.rule import Rule, rule


@rule("squared-margin-sum", "OBJ703", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for link in facts.links:
        if link.kind is Kind.SQUARE and link.is_margin and not link.lengths and _fixed_target(link):
            total = _sum_of_tokens(link)
            span = head(total) if total else reading(facts, "pi", live=True)
            yield rule.finding(
                "this margin is a sum over tokens, but its target is the same for all lengths",
                span,
                under="grows with the length",
                consequence="long responses reach the target when their tokens have hardly moved",
                gradient="that of IPO as printed; the authors average over the tokens",
                help="use mean[t] in place of sum[t]",
                fine_if="it should be as printed, or all responses have about the same length",
                fix=_fix(total),
            )
            return


def _fixed_target(link: Link) -> bool:
    """Whether the margin is compared with a number; a difference of rewards is for responses."""
    try:
        terms = link.expand(link.score).terms
    except TooLargeError:
        return False
    constant = (factors for factors in terms if not any(_reads_policy(base) for base, _ in factors))
    return all(not factors for factors in constant)


def _reads_policy(base: n.Expr) -> bool:
    return any(isinstance(node, n.LogProb | n.LogDist) for node in n.topological(base))


def _sum_of_tokens(link: Link) -> n.Expr | None:
    for node in n.topological(link.score):
        if isinstance(node, n.Reduce) and node.op == "sum" and node.over == ("t",) and node.live:
            return node
    return None


def _fix(total: n.Expr | None) -> Fix | None:
    span = head(total) if total else None
    if span is None or span.text.replace(" ", "") != "sum[t]":
        return None
    return Fix("average over the tokens", (Edit(span, "mean[t]"),))
