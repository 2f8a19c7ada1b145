"""Which divergence the terms against a policy descend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt

from torch import Tensor

from objdsl.audit.compare import Comparison, Square, residual
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import expected
from objdsl.audit.plan import Case, Plan
from objdsl.audit.result import EXACT, Figure, Match, Penalty
from objdsl.audit.roles import roles_of
from objdsl.audit.target import divergences, joint
from objdsl.audit.terms import trained_in, without_layer_terms, without_policy
from objdsl.frozen import dataclass
from objdsl.ir.nodes import policies_in, topological
from objdsl.objective import Objective


@dataclass(frozen=True)
class Terms:
    """Terms against a policy.

    Attributes:
        objective: the objective that is evaluated, with rewards of 0.
        learners: the policies that the terms train.
    """

    objective: Objective
    against: str
    learners: tuple[str, ...]


def terms_of(objective: Objective) -> Iterator[Terms]:
    """The terms against each frozen policy, then those between policies of several layers."""
    roles = roles_of(objective.formula)
    between = without_layer_terms(objective, roles)
    rest = between.objective if between else objective
    for policy in roles.references:
        removal = without_policy(rest, policy)
        trained = trained_in(*removal.terms) if removal else set[str]()
        learners = tuple(x for x in roles.learners if x in trained or not trained)
        yield Terms(rest, policy, learners)
    pairs = {
        (learner, other)
        for term in (between.terms if between else ())
        for learner in trained_in(term) or roles.learners
        for other in {roles.family(name) for name in policies_in(*topological(term))}
        if other != learner and other in ("pi", *roles.learners)
    }
    for other in sorted({other for _, other in pairs}):
        trained = {learner for learner, against in pairs if against == other}
        yield Terms(objective, other, tuple(x for x in roles.learners if x in trained))


def penalty_of(terms: Terms, plan: Plan, tables: Mapping[str, Tensor]) -> Penalty:
    """The divergences that are nearest to what the terms descend, on policy, with rewards of 0.

    Other frozen policies are equal to `old`: their log-ratios are 0.
    """
    policy, roles = terms.against, roles_of(terms.objective.formula)
    at_rest = tuple(other for other in plan.roles.references if other != policy)
    shares, comparisons = [], []
    for instance in instances_of(plan, Case("none"), tables, (policy,), at_rest):
        gradient = expected(terms.objective, instance, plan.draw(instance))
        square = Square.of(gradient.mean, gradient.noise)
        length, variance = square.value, gradient.variance
        shares.append(0.0 if square.is_noise else sqrt(length / (length + variance)))
        descent = replace(gradient, mean=-gradient.mean)
        candidates = []
        for name in terms.learners:
            logits, other = instance.policies[name], instance.policies[policy]
            for divergence in divergences(instance.world, logits, other, instance.chance):
                suffix = "" if name == "pi" else f" ({name})"
                meaning = divergence.meaning.replace("pi", name)
                towards = joint(roles, instance, name, divergence.gradient)
                comparison = Comparison.of(descent, towards)
                candidates.append((divergence.name + suffix, meaning, comparison))
        comparisons.append(candidates)
    matches = []
    for same in zip(*comparisons, strict=True):
        residuals, interval = residual([comparison for _, _, comparison in same])
        cosine = Figure.of([comparison.cosine for _, _, comparison in same], worst="min")
        name, meaning, _ = same[0]
        matches.append(Match(name, meaning, cosine, Figure.of(residuals), interval))
    share = Figure.of(shares)
    exact = (x.divergence for x in matches if x.interval is None and x.residual.worst < EXACT)
    descends = "nothing" if share.worst < EXACT else next(exact, None)
    return Penalty(policy, share, descends, tuple(matches))
