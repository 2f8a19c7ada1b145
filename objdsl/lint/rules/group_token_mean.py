"""The mean is over all tokens of a group: the divisor includes the response's own length.

**What.** `mean[i,t]`, or any other division by the total length of the group.

**Why.** The divisor `sum[i] |y|` changes with the response that is being weighted: a long response
reduces its own weight, as with `1 / |y|`, but less, by the order of one over the group size. Also,
prompts with long responses weigh less than prompts with short ones.

**Fine if** the group is large, and all prompts need responses of about the same length.

**Example.**

    maximize mean[p] mean[i,t] surrogate(r, A, 1 - eps, 1 + eps)

**Instead.** A sum over the tokens, divided by a constant; or the mean over the tokens of the whole
step, `mean[p,i,t]`, where a response's own length is one of many.

**Papers.** DAPO, arXiv:2503.14476, eq. 8; Dr. GRPO, arXiv:2503.20783.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.ir.nodes import Expr
from objdsl.lint.places import entry, head, marked
from objdsl.lint.rule import Rule, rule


@rule("group-token-mean", "OBJ103", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator, factor in facts.factors(Reason.GROUP_TOKENS):
        yield rule.finding(
            "each reward is divided by its group's token count, which includes its own length",
            head(factor.origin),
            under="divides by sum[i] |y|",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.base),
            consequence="in a group of 8, a response that is much longer than the others "
            "reduces its own weight; prompts with long responses weigh less",
            gradient="biased by the order of 1 / (group size), and prompts weigh differently",
            help="divide by a constant, or by the token count of the whole step (mean[p,i,t])",
            fine_if="you reproduce a paper that does so",
            fix=_fix(factor.origin),
        )


def _fix(node: Expr) -> Fix | None:
    span = head(node)
    if span is None or span.text.replace(" ", "") != "mean[i,t]":
        return None
    title = "sum over the tokens, and divide the learning rate by the mean length"
    return Fix(title, (Edit(span, "mean[i] sum[t]"),))
