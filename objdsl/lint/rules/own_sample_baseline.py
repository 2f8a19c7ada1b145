"""The baseline of a response depends on the response itself.

**What.** A statistic of the group that includes the response is subtracted from the reward, and it
is not the plain mean: a weighted mean, a maximum, a median of three, a log-mean-exp. Or a function
of the response itself is subtracted: of its length, or of its probability.

**Why.** A baseline causes no bias as long as it does not depend on the response:
`E[b grad log pi] = 0`. The plain mean of the group is an exception: it is the leave-one-out mean
times `(G - 1) / G` plus the response's own reward over G, which only changes the scale. Any other
statistic leaves a bias of the order of 1 / G: the length-weighted mean of OPO 0.11 of the gradient
with 2 responses, 0.05 with 5. A function of the response alone leaves a bias that does not shrink
at all.

**Fine if** groups are large, or something other than the expected reward is to be maximised.

**Example.**

    b = (sum[i] (|y| * reward)) / sum[i] |y|
    A = reward - b

**Instead.** The same statistic over the other responses, `sum[j != i]`, is unbiased. By a key,
`mean[j != i by role]`, it is so if the key is known before the response is drawn: `given role[p,i]
before i`; or, of tokens, `mean[j != i, t by state]`, before the token is: `given state[p,i,t]
before t`.

**Papers.** RLOO, arXiv:2402.14740; OPO, arXiv:2505.23585.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.values.dependence import depends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.indices import RESPONSE
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("own-sample-baseline", "OBJ204", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    dependent = list(facts.factors(Reason.BASELINE))
    if dependent and not facts.departing(Reason.STEP_BASELINE):  # token-whitening
        estimator, guilty = max(
            dependent, key=lambda pair: (pair[1].depends.pooled, pair[1].exponent < 0)
        )
        others = isinstance(guilty.base, n.Peers) and guilty.base.relation == "!="
        statistic = guilty.depends.pooled and not others
        yield rule.finding(
            "the baseline depends on the response that it is subtracted from",
            guilty.origin.span,
            under="which others count depends on the response itself"
            if others and _late_keys(guilty.base)
            else "includes the response itself",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, guilty.origin),
            gradient="biased by the order of 1 / (group size)"
            if statistic
            else "biased, whatever the group size",
            help="compute it over the other responses: `j != i` in place of `i`"
            if statistic
            else _help(guilty.base),
            fine_if="groups are large" if statistic else "it is intended as part of the reward",
        )


def _late_keys(base: n.Expr) -> list[n.Expr]:
    """The keys that are known only with the token or the response."""
    keys = base.keys if isinstance(base, n.Peers) else ()
    return [key for key in keys if depends(key).on_response]


def _help(base: n.Expr) -> str:
    """The remedy if the response itself is not among those that are counted."""
    leaves = [node for node in n.topological(*_late_keys(base)) if depends(node).on_response]
    leaves = [node for node in leaves if not node.children]
    columns = [node for node in leaves if isinstance(node, n.Column) and node.role == "data"]
    if not leaves:
        return "subtract something that does not depend on the response"
    if len(columns) < len(leaves):
        return "group by a key that is known before the token or the response is drawn"
    declared = (
        f"`given {column.name}[p,i] before i`"
        if column.over == RESPONSE
        else f"`given {column.name}[p,i,t] before t`"
        for column in columns
    )
    when = "the response" if columns[0].over == RESPONSE else "its token"
    return f"if the key is known before {when} is drawn, declare it so: {', '.join(declared)}"
