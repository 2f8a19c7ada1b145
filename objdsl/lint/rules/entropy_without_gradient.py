"""The log-probability of the sampled token, added as a bonus, has no gradient in expectation.

**What.** `- c * log(pi)`, or `log(pi / old)`, as a term of its own beside the reward's, where what
weighs it does not change with the response.

**Why.** `-log pi` of sampled tokens is an estimate of the entropy; its derivative is the constant
-1, and the expectation of a constant times the score is 0. On policy the term is noise. On
responses of another policy mu its gradient is that of KL(mu || pi): with a minus it drives pi away
from the sampler, with a plus it imitates it. Divided by the length, as by `mean[t]`, it is a
length preference: `-c / |y|` is weighed as a reward, so that responses become longer.

**Fine if** it is a baseline of the reward, written apart: say `(reward - c) * log(pi)`.

**Example.**

    maximize mean[p,i] sum[t] (A * log(pi) - 0.01 * log(pi))

**Instead.** `+ 0.01 * entropy`, which sums over all words; or, for responses, `-log(old)` in the
reward, with all that is to go: `reward - 0.01 * sum[s >= t] log(old)`.

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
        lengths = any(factor.depends.own for one in bonus.terms for factor in one.factors)
        rises = sum(bonus.sized(one)[0] * one.coefficient for one in bonus.terms) > 0
        yield rule.finding(
            "this is a bonus for lengths, and none for entropy"
            if lengths
            else "this bonus has no gradient in expectation",
            term.span or facts.objective.goal.span,
            under="d / d log(pi) is a number for each length"
            if lengths
            else "d / d log(pi) is a constant",
            weight=f"w has {facts.written(bonus.weight)} of it",
            value="an estimate of the entropy",
            gradient="that of this weight, taken for a reward"
            if lengths
            else "0 in expectation on policy; off policy it "
            + ("imitates the sampler" if rises else "drives pi away from the sampler"),
            help="`entropy`; or -log(old) in the reward, `sum[s >= t]`",
            fine_if="" if lengths else "it is a baseline of the reward, written apart",
        )
    for one in facts.idle:
        if one.policies:
            continue  # kl-without-gradient
        yield rule.finding(
            "this term has no gradient in expectation",
            one.node.span or facts.objective.goal.span,
            under="the weight of a token that it brings is known before the token",
            weight=f"w has {facts.written(brought(one))} of it",
            gradient="0 but for lengths, which divide it"
            if one.lengths
            else "0 in expectation on policy: it is a baseline, and of no reward",
            help="`entropy` beside the reward's term, without sg(...)",
        )
