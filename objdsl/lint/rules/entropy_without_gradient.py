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
from dataclasses import replace
from functools import partial

from objdsl.analysis.estimator import Estimator, Kind, frozen
from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.differentiate import weights_of
from objdsl.ir.build import neg, sub
from objdsl.ir.nodes import (
    Binary,
    Column,
    Expr,
    LogDist,
    LogProb,
    Others,
    Reduce,
    Unary,
    holding,
    replaced,
)
from objdsl.lint.rule import Rule, rule

# Terms of a goal that are looked at: each is a derivative of its own.
_MOST_TERMS = 32


@rule("entropy-without-gradient", "OBJ315", Severity.WARNING, Claim.PENALTY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    if not facts.rewarded:
        return
    for term, without in _terms(facts.objective.goal, set(frozen(facts.objective))):
        for bonus in _bonuses(facts, without):
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


def _terms(goal: Expr, held: set[str]) -> Iterator[tuple[Expr, Expr]]:
    """The terms of a goal that read the sampled tokens' probabilities and nothing else, each with
    the goal without it. Of a goal with very many, some."""
    stack, found = [goal], 0
    seen: set[Expr] = set()
    more = holding(partial(_is_more, held), goal)
    while stack and found < _MOST_TERMS:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        match node:
            case Binary("add" | "sub" as op, a, b) if a.live and b.live:
                for one, rest in ((a, b if op == "add" else neg(b)), (b, a)):
                    if one not in more:
                        found += 1
                        yield one, replaced(goal, {node: rest})
                    else:
                        stack.append(one)
            case Unary("neg", x) | Reduce("sum" | "mean", _, x) | Others(_, x):
                stack.append(x)
            case Binary("mul" | "div", a, b) if a.live != b.live:
                stack.append(a if a.live else b)


def _is_more(held: set[str], node: Expr) -> bool:
    """Whether a value is more than the policy of the sampled tokens: data, or one of `held`."""
    return isinstance(node, Column | LogDist) or (isinstance(node, LogProb) and node.policy in held)


def _bonuses(facts: Facts, without: Expr) -> Iterator[Estimator]:
    """What a term brings to a weight, if that is the same for all responses of a length, whatever
    the policies are."""
    rest = weights_of(replace(facts.objective, goal=without))
    for estimator in facts.rewarded:
        if estimator.leaf not in rest:
            continue
        weight = sub(estimator.weight, rest[estimator.leaf])
        bonus = replace(estimator, weight=weight, expand=facts.near_policy)
        reads = {
            name for term in bonus.terms for factor in term.factors for name in factor.depends.reads
        }
        if bonus.of(Kind.SIGNAL):
            continue
        if bonus.expanded is not None and bonus.terms and reads <= {"|y|"}:
            yield replace(bonus, weight=bonus.expanded.expr())
