"""The margin of a preference compares means over tokens, not whole responses.

**What.** `logsigmoid` of a margin between log-probabilities, or log-ratios, that are divided by
the length of their response.

**Why.** DPO is the likelihood of the preferences under the optimal policy of a reward with a KL
penalty, where `log(pi / ref)` of the *whole* response is the reward. With a mean per token the
reward is per token: for the same margin, a response of twice the length may be twice as far from
the reference, and a token's weight has the factor `1 / |y|`.

**Fine if** it is the method: SimPO divides by the length so that long responses are not preferred
for their length.

**Example.**

    h = mean[t] log(pi / ref)
    margin = mean[i | chosen] h - mean[i | not chosen] h
    maximize mean[p] logsigmoid(beta * margin)

**Instead.** `h = sum[t] log(pi / ref)`, with a beta smaller by the typical length.

**Papers.** DPO, arXiv:2305.18290, eq. 7; SimPO, arXiv:2405.14734, eq. 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.links import Kind
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, head, summed
from objdsl.lint.rule import Rule, rule


@rule("preference-length", "OBJ702", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for link in facts.links:
        if link.kind is Kind.LOGISTIC and link.is_margin and link.lengths:
            divisor = link.lengths[0]
            yield rule.finding(
                "this preference compares means over tokens, not whole responses",
                head(divisor),
                under="divides by |y|",
                labels=entry(facts),
                consequence="for the same margin, a response of twice the length may be twice as "
                "far "
                "from the reference",
                gradient="a token's weight has the factor 1 / |y|; not that of DPO",
                help="sum over the tokens",
                fine_if="it is the method, as in SimPO",
                fix=summed(divisor, "sum over the tokens; beta then needs a different value"),
            )
            return
