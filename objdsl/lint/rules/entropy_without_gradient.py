"""The sampled token's log-probability, as a bonus, has no gradient in expectation.

**What.** `- c * log(pi)`, or `log(pi / old)`, as a term of its own beside the rewarded one, with a
coefficient that does not depend on the response.

**Why.** `-log pi` of sampled tokens is an estimate of the entropy; but its derivative is the
constant -1, and the expectation of a constant times the score is 0. On policy the term is noise.
On responses of a different policy mu its gradient is that of KL(mu || pi): with a minus sign it
drives pi away from the sampler, with a plus sign it imitates the sampler. Divided by the length,
as by `mean[t]`, it is a length preference: `-c / |y|` acts as a reward, so responses become
longer.

**Fine if** it is a baseline of the reward, written separately: write `(reward - c) * log(pi)`.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - 0.01 * log(pi))

**Instead.** `+ 0.01 * entropy`, which sums over the vocabulary; or, for whole responses,
`-log(old)` in the reward, as a reward-to-go: `reward - 0.01 * sum[s >= t] log(old)`.

**Papers.** A3C, arXiv:1602.01783, has the entropy of the whole distribution.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.idle import brought
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule


@rule("entropy-without-gradient", "OBJ315", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for term, bonus in facts.bonuses:
        lengths = any(factor.depends.on_response for x in bonus.terms for factor in x.factors)
        rises = sum(bonus.sized(x)[0] * x.coefficient for x in bonus.terms) > 0
        yield rule.finding(
            "this is a bonus on lengths, not on entropy"
            if lengths
            else "this bonus has no gradient in expectation",
            term.span or facts.objective.goal.span,
            under="d / d log(pi) depends on the length alone"
            if lengths
            else "d / d log(pi) is a constant",
            weight=f"adds {facts.written(bonus.weight)} to w",
            value="an estimate of the entropy",
            gradient="that of this weight, as if it were a reward"
            if lengths
            else "0 in expectation on policy; off policy it "
            + ("imitates the sampler" if rises else "drives pi away from the sampler"),
            help="use `entropy`; or -log(old) in the reward, `sum[s >= t]`",
            fine_if="" if lengths else "it is a baseline of the reward, written separately",
        )
    for part in facts.idle:
        if part.policies:
            continue  # kl-without-gradient
        yield rule.finding(
            "this term has no gradient in expectation",
            part.node.span or facts.objective.goal.span,
            under="contributes a weight that is known before the token is sampled",
            weight=f"adds {facts.written(brought(part))} to w",
            gradient="0, except for the lengths that divide it"
            if part.lengths
            else "0 in expectation on policy: it is a baseline without a reward",
            help="add `entropy` beside the rewarded term, without sg(...)",
        )
