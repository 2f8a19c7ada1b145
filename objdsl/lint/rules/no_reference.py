"""A preference is learned without a reference policy.

**What.** A margin between chosen and rejected responses in `log(pi)` alone.

**Why.** DPO's loss is the likelihood of the preferences under the optimal policy of
`E[reward] - KL(pi || ref) / beta`, where `log(pi / ref)` takes the place of the reward. Without
`ref` the reference is implicitly uniform. Nothing keeps the policy where it was: the margin can
grow while both responses become less likely.

**Fine if** it is the method: CPO and SimPO have no reference.

**Example.**

    h = sum[t] log(pi)
    margin = mean[i | chosen] h - mean[i | not chosen] h
    maximize mean[p] logsigmoid(beta * margin)

**Instead.** `h = sum[t] log(pi / ref)`; or a term that keeps the chosen response likely,
`+ mean[p] mean[i | chosen] mean[t] log(pi)`.

**Papers.** DPO, arXiv:2305.18290, eq. 7; CPO, arXiv:2401.08417; SimPO, arXiv:2405.14734.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule


@rule("no-reference", "OBJ701", Severity.NOTE, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for link in facts.links:
        trained = {leaf.policy for leaf in link.slopes}
        if link.is_margin and link.policies <= trained:
            yield rule.finding(
                "a preference is learned without a reference policy",
                reading(facts, min(trained), live=True),
                under="log(pi) without a reference",
                consequence="nothing anchors the policy: both responses can become less likely "
                "while "
                "the margin grows",
                help="use log(pi / ref)",
                fine_if="it is the method, as in CPO and SimPO",
            )
            return
