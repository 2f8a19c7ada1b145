"""The return relies on the critic: it is biased as far as the critic is wrong.

**What.** Generalised advantages with lambda below 1 and gamma 1.

**Why.** With d for lambda the advantage is
`d^(n - t) R + (1/d - 1) sum[s >= t] d^(s - t) V_s - V_t / d`: the gradient is that of the expected
reward if V is the policy's value function, and biased by as much as V is wrong. The same holds at
lambda 0, where `V_(t+1) - V_t` takes the place of the reward.

**Fine if** the critic is good; lower variance is the point.

**Example.**

    A = gae((t == |y|) * reward, 1, 0.95)

**Instead.** lambda 1 where the critic is not trusted, for example at the start of a run.

**Papers.** GAE, arXiv:1506.02438, section 3; VC-PPO, arXiv:2503.01491.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.ir.nodes import Scan
from objdsl.lint.rule import Rule, rule


@rule("critic-bootstrap", "OBJ212", Severity.NOTE, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        for factor in (factor for term in estimator.terms for factor in term.factors):
            if factor.base in estimator.bootstraps:
                yield rule.finding(
                    "the return relies on the critic, and is only as accurate as the critic",
                    factor.origin.span,
                    under="lambda < 1" if isinstance(factor.base, Scan) else "lambda = 0",
                    gradient="that of the expected reward if the critic is exact",
                    help="lambda = 1 does not rely on the critic, and has more variance",
                    fine_if="the critic is good",
                )
                break
