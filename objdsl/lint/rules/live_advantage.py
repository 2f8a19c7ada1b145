"""The advantage, or the baseline in it, carries a gradient of its own.

**What.** A coefficient of `log(pi)` or of a ratio that contains the policy, or the critic's `V`,
without `sg`: a KL in the reward against `pi` itself, a baseline of log-probabilities,
`reward - V`.

**Why.** `d (A log pi) / d log pi` is `A` plus `log pi` times the derivative of A. In front of
`log(pi)` the second part acts like an entropy term that nobody asked for: with a KL in the reward,
the cosine to the intended gradient is 0.8 on small random policies. In front of a ratio it is one
of three things: for the KL of the token itself, a constant, which does no harm; for a KL summed
from the token on, a baseline that grows with the position, which is noise on policy and off policy
drives pi away from the sampler; for a KL summed over the response, the length, which is a bias. A
critic whose `V` appears in the policy's term learns to lower the loss of the policy.

**Fine if** never. The one live penalty that is intended, `r * (A - beta * k3(pi, ref))`, is not
reported, and neither is a constant.

**Example.**

    A = reward + beta * sum[s >= t] log(ref / pi)
    maximize mean[p,i] sum[t] (A * log(pi))

**Instead.** `sg(...)` around the advantage; `old` and `V_old` in place of `pi` and `V`.

**Papers.** A Comedy of Estimators, arXiv:2512.21852.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.advantage import Adds, LiveAdvantage
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import stop
from objdsl.lint.rule import Rule, rule


@rule("live-advantage", "OBJ504", Severity.ERROR, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    seen = set()
    for advantage in sorted(
        facts.live_advantages, key=lambda advantage: advantage.adds is Adds.NOISE
    ):
        if advantage.node in seen:
            continue
        seen.add(advantage.node)
        biased = advantage.adds is Adds.BIAS
        critic = isinstance(advantage.leaf, n.Column)
        extra = facts.written(advantage.extra)
        yield rule.finding(
            "the advantage carries a gradient of its own",
            advantage.node.span,
            severity=None if biased else Severity.WARNING,
            claim=_claim(facts, advantage) if biased else Claim.OFF_POLICY,
            under="changes with " + ("the critic" if critic else "pi") + ", without sg(...)",
            weight=f"{'of V' if critic else 'w'}, in addition to what is intended: {extra}",
            consequence="the critic learns to raise the policy's objective, not to predict values"
            if critic
            else "",
            gradient="biased by the additional term"
            if biased
            else "right on policy, with added noise; biased off policy, where the score of a "
            "token has a nonzero expectation",
            help="put sg(...) around it, or use V_old in place of V"
            if critic
            else "put sg(...) around it, or use old in place of pi",
            fix=stop(facts, advantage.node),
        )


def _claim(facts: Facts, advantage: LiveAdvantage) -> Claim:
    """The claim that the extra gradient affects: the penalty in the advantage, or the direction."""
    references = set(frozen(facts.objective))
    logs = (
        node for node in n.topological(advantage.node) if isinstance(node, n.LogProb | n.LogDist)
    )
    penalised = not references.isdisjoint(log.policy for log in logs)
    return Claim.PENALTY if penalised and not facts.departing(Reason.LIVE) else Claim.DIRECTION
