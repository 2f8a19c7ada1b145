"""The value estimates the reverse KL, but the gradient is that of the forward KL.

**What.** `k3(pi, ref)` in the loss without a live ratio in front of it; or any other penalty whose
weight on policy is `1 - ref / pi`.

**Why.** k3 is an unbiased estimate of KL(pi || ref). Its derivative is not:
`E[(1 - ref / pi) grad log pi] = -sum ref grad log pi`, the gradient of KL(ref || pi) at the states
that pi visits. Where pi has moved away from ref the weight `1 - e^X` is unbounded: -2.2e4 at X =
10, where that of the reverse KL is -10. Multiplying by a detached ratio does not change this.

**Fine if** the forward KL is wanted, or GRPO is reproduced.

**Example.**

    maximize mean[p,i] mean[t] (surrogate(r, A, 1 - eps, 1 + eps) - beta * k3(pi, ref))

**Instead.** `k2(pi, ref)`, or k3 times the live ratio: `pi / mu * k3(pi, ref)`, as in
DeepSeek-V3.2.

**Papers.** A Comedy of Estimators, arXiv:2512.21852; DeepSeek-V3.2, arXiv:2512.02556, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.divergence import Credit, Descends
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading, swapped
from objdsl.lint.rule import Rule, rule


@rule("forward-kl-gradient", "OBJ302", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for penalty in facts.penalties:
        if penalty.descends is Descends.FORWARD_KL and not penalty.away:
            policy, by_token = penalty.policy, penalty.credit is Credit.TOKEN
            of = "state by state" if by_token else "of whole responses"
            yield rule.finding(
                f"the gradient of this penalty is that of the forward KL, KL({policy} || pi)",
                reading(facts, policy),
                under=f"the weight is 1 - {policy} / pi",
                labels=penalty_label(facts),
                value=f"an estimate of KL(pi || {policy})",
                gradient=f"that of KL({policy} || pi), {of}{facts.weighted(penalty)}",
                consequence=f"tokens that {policy} prefers and pi has abandoned pull without "
                "bound; "
                "the policy is kept broad, not close",
                help=f"use k2(pi, {policy}), or multiply by the live ratio pi / mu"
                if by_token
                else f"use half the square of the response's log(pi / {policy})",
                fine_if="you reproduce GRPO, or want the forward KL",
                fix=swapped(facts, "k3", "k2", policy),
            )
