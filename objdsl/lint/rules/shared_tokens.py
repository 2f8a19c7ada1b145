"""Responses that share tokens are each other's baseline.

**What.** `sample from mu: branch node` says that rollouts branch, and what is subtracted from the
reward, or weights it, is a statistic of other responses, among them those that share the token.

**Why.** `E[b grad log pi] = 0` holds for a baseline that is independent of the token. The reward of
a response that shares the token is not: its expectation, given the token, is that of the response's
own reward. Let S of G responses share it. Then `reward - mean[j != i] reward` is, in expectation,
`1 - (S - 1) / (G - 1)` times the reward: 0 for tokens that all have in common, all of it behind the
last branch. In groups of 3, where two share their first token, the residual is 0.18.

**Fine if** few responses share the token.

**Example.**

    given node[p,i,t] before t
    sample from mu: group 8, branch node
    A = reward - mean[j != i] reward

**Instead.** The mean over those that do not share the token, which is exact:

    rest = max(count[i] - count[i by node, t], 1)
    A = reward - (sum[i] reward - sum[i by node, t] reward) / rest

Of a column of responses, `given tree[p,i] before i`, it is `mean[j != i | tree[j] != tree[i]]
reward`. The mean over those that do share it, `mean[i by node, t] reward`, can stand for the reward
itself, with less variance. A critic's value is a baseline, too.

**Papers.** TreeRPO, arXiv:2506.05183.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, marked
from objdsl.lint.rule import Rule, rule


@rule("shared-tokens", "OBJ215", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    for estimator, factor in facts.factors(Reason.SHARED):
        assert sampling.branch is not None
        name = sampling.branch.name
        rest = f"sum[i] x - sum[i by {name}, t] x"
        if not sampling.branch.of_tokens:
            rest = f"mean[j != i | {name}[j] != {name}[i]] x"
        yield rule.finding(
            "a statistic of other responses includes those that share the token",
            factor.origin.span,
            under=f"not independent of the response, which branches by `{name}`",
            labels=entry(facts),
            weight=marked(facts, estimator.weight, factor.origin),
            gradient="the reward of a token counts less, the more responses share it",
            help=f"leave out those that share tokens: `{rest}`",
            fine_if="few responses share a token",
        )
        return
