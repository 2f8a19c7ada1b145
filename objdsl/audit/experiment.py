"""The audit: small random policies, and every figure over several of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from objdsl.analysis.values.frozen_states import with_frozen_states
from objdsl.audit.columns import Given, tables_of
from objdsl.audit.function import Function
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import token_weights
from objdsl.audit.instance import UnauditableError
from objdsl.audit.penalty import penalty_of, terms_of
from objdsl.audit.plan import Case, Plan, plan_of
from objdsl.audit.report import Audit
from objdsl.audit.result import Length, Row
from objdsl.audit.roles import Roles, roles_of
from objdsl.audit.rows import gradients_of, lengths_of, row_of
from objdsl.audit.target import Target
from objdsl.audit.terms import Removal, without_layer_terms, without_policy
from objdsl.frozen import dataclass
from objdsl.ir.columns import Values
from objdsl.ir.declarations import Domain
from objdsl.ir.phases import phases
from objdsl.objective import Objective, load


def audit(
    objective: Objective | str | Path,
    *,
    group: int | None = None,
    prompts: int | None = None,
    vocabulary: int | None = None,
    horizon: int | None = None,
    policies: int = 3,
    drifts: tuple[float, ...] = (0.05, 0.3),
    given: Mapping[str, Given] | None = None,
    step: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Audit:
    """Measures the bias of an objective's gradient.

    Args:
        objective: an objective, a path, or a name of the gallery.
        group: responses per prompt. By default 3 (2 where a step needs two prompts), and 1 for an
            objective that has no groups.
        prompts: prompts per step. By default 1, and 2 where the prompts of a step are not merely
            averaged, but share a denominator or a statistic.
        vocabulary: size of the vocabulary, EOS included.
        horizon: maximum length of a response, in tokens.
        policies: number of random policies, each with its own rewards, to take figures over.
        drifts: standard deviations of the noise between the logits of two policies: `stale` is
            noise between `pi` and `old`, `mismatch` between `old` and `mu`.
        given: the columns that the file declares with `given`. A state of prompts is random unless
            given; a state that is one number has the value that it starts from.
        step: the rollout, where the objective reads it. By default one of its last phase.
        samples: average this many random draws instead of summing all. By default draws are
            sampled only where there are too many to sum.
        seed: seed of the policies and the rewards.

    Raises:
        UnauditableError: it cannot be measured on a table of logits; the message says why.
        FileNotFoundError, ObjectiveError: as `objdsl.load`.
    """
    if not isinstance(objective, Objective):
        objective = load(objective)
    every = phases(objective.formula.at(objective.params))
    usual = max((phase for phase in every if not phase.drifted), key=lambda phase: phase.end)
    phase = next((x for x in every if step is not None and x.holds(step)), usual)
    formula = with_frozen_states(phase.objective, phase.step if step is None else step)
    objective = Objective(replace(formula, reports=()))
    plan = plan_of(
        objective, group=group, prompts=prompts, vocabulary=vocabulary, horizon=horizon,
        samples=samples, policies=policies, seed=seed,
    )  # fmt: skip
    tables = tables_of(objective, plan, given or {})
    # Terms against other policies are judged with rewards of 0, in their domain or not.
    objective = Objective(replace(objective.formula, declared=()), objective.params)
    notes = [*_sampling_notes(objective), *_tree_notes(plan)]
    rows: list[Row] = []
    lengths: tuple[Length, ...] = ()
    judged = _judged(objective, plan, tables)
    target = Target(judged.roles, judged.kept)
    if judged.roles.rewarded:
        notes += judged.notes
        cases = list(plan.cases(drifts))
        gradients = [gradients_of(judged.objective, plan, case, tables) for case in cases]
        target = target.fitted(gradients[0])
        rows = [row_of(case, pairs, target) for case, pairs in zip(cases, gradients, strict=True)]
        if not judged.kept and judged.roles.learners == ("pi",):
            lengths = lengths_of(judged.objective, plan, cases[0], tables, target)
    else:
        why = "no policy's gradient changes with a reward" if plan.rewards else "it reads no reward"
        notes.append(f"{why}, so there is no policy gradient to compare it with")
    if len(every) > 1:
        notes.append(f"the objective is that of {phase}; others are chosen by a step")
    if any(isinstance(column.role, Values) for column in objective.columns.values()):
        which = " of the plain sum of the rewards" if len(plan.rewards) > 1 else ""
        notes.append(
            f"V and V_old are the exact value function{which}; the critic's own loss is not judged"
        )
    penalties = []
    for terms in terms_of(objective):
        try:
            penalties.append(penalty_of(terms, plan, tables))
        except UnauditableError as error:
            notes.append(f"the terms against {terms.against} are not judged: {error}")
    params = {param.name: objective.params[param.name] for param in objective.formula.used_params}
    return Audit(
        objective.name, params, {name: _domain(plan, name) for name in plan.rewards},
        plan.world.vocabulary, plan.world.horizon, plan.prompts, plan.group, plan.samples is None,
        plan.draws, policies, target.written, tuple(rows), lengths, tuple(penalties),
        tuple(notes),
    )  # fmt: skip


def audit_function(
    function: Function,
    *,
    group: int | None = None,
    prompts: int | None = None,
    vocabulary: int | None = None,
    horizon: int | None = None,
    policies: int = 3,
    drifts: tuple[float, ...] = (0.05, 0.3),
    samples: int | None = None,
    seed: int = 0,
) -> Audit:
    """Measures the bias of the gradient of a Python loss; arguments are those of `audit`.

    Raises:
        UnauditableError: it cannot be measured on a table of logits; the message says why.
    """
    plan = plan_of(
        function, group=group, prompts=prompts, vocabulary=vocabulary, horizon=horizon,
        samples=samples, policies=policies, seed=seed,
    )  # fmt: skip
    target = Target(plan.roles, plan.roles.references)
    cases = list(plan.cases(drifts))
    gradients = [gradients_of(function, plan, case, {}) for case in cases]
    target = target.fitted(gradients[0])
    rows = [row_of(case, pairs, target) for case, pairs in zip(cases, gradients, strict=True)]
    lengths = () if target.kept else lengths_of(function, plan, cases[0], {}, target)
    notes = ["the gradient is that of autograd through the function"]
    if function.advantages is not None:
        notes.append(f"advantages are those of {function.advantages.name}")
    if target.kept:
        notes.append("the reference stays: the target is E[reward] - c KL(pi || ref)")
    return Audit(
        function.name, {}, {name: _domain(plan, name) for name in plan.rewards},
        plan.world.vocabulary, plan.world.horizon, plan.prompts, plan.group, plan.samples is None,
        plan.draws, policies, target.written, tuple(rows), lengths, (), tuple(notes),
    )  # fmt: skip


def _domain(plan: Plan, reward: str) -> str:
    """The domain of a reward in the rows of real rewards."""
    domain = plan.domains.get(reward, Domain())
    return "any number" if domain == Domain() else str(domain)


def _sampling_notes(objective: Objective) -> Iterator[str]:
    """Notes on how responses are sampled."""
    sampling, roles = objective.sample, roles_of(objective.formula)
    if roles.sampler != "mu" and roles.sampler not in roles.hidden:
        yield f"responses are sampled from {roles.sampler}, which replaces mu: on policy it is pi"
    if sampling.temperature != 1:
        yield f"all policies are those at temperature {sampling.temperature:g}"
    if sampling.top_p < 1 or sampling.top_k is not None:
        yield (
            "all policies are restricted to the tokens that the sampler keeps"
            if sampling.keep_mask
            else "mu is restricted to the tokens that it keeps; the other policies are not"
        )
    if sampling.experts:
        yield "a table of logits has no experts: the effect of their routing is not judged"
    for name in roles.learners:
        if name in roles.hidden:
            yield (
                f"{name} has random logits of its own, and its gradient reaches all layers below it"
            )


def _tree_notes(plan: Plan) -> Iterator[str]:
    if plan.tree is not None and str(plan.tree):
        yield f"of each group, {plan.tree}; all others are independent"


# --- terms against other policies ----------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """The objective that is compared with the gradient of the rewards.

    Attributes:
        objective: without the terms against other policies, as far as they could be removed.
        kept: the policies that affect the factor of the rewards, so that the target is
            `E[reward] - c KL(pi || policy)`.
    """

    objective: Objective
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def roles(self) -> Roles:
        return roles_of(self.objective.formula)


def _judged(objective: Objective, plan: Plan, tables: Mapping[str, Tensor]) -> _Judged:
    """The objective without its penalties, as far as the factor of the rewards stays the same."""
    kept, notes = [], []

    def remove(removal: Removal | None) -> bool:
        nonlocal objective
        if removal is None or not _same_for_rewards(objective, removal.objective, plan, tables):
            return False
        objective = removal.objective
        notes.append(f"rewards are judged without {removal.written}")
        return True

    for policy in plan.roles.references:
        if not remove(without_policy(objective, policy)):
            kept.append(policy)
            notes.append(
                f"{policy} affects the factor of the rewards and stays: the target is taken to be "
                f"E[reward] - c KL(pi || {policy}), with the c that fits best"
            )
    remove(without_layer_terms(objective, plan.roles))
    return _Judged(objective, tuple(kept), tuple(notes))


def _same_for_rewards(
    objective: Objective, reduced: Objective, plan: Plan, tables: Mapping[str, Tensor]
) -> bool:
    """Whether the weights of two objectives change alike with the rewards, on policy, where the
    frozen policies are equal to `old`, too."""
    others = plan.roles.references
    changes: list[list[dict[str, Tensor]]] = []
    for which in (objective, reduced):
        weights: list[dict[str, Tensor]] = []
        for kind in ("real", "binary", "none"):
            instance = next(instances_of(plan, Case(kind), tables, (), others))
            generator = torch.Generator().manual_seed(plan.seed)
            response = plan.some_draws(instance, 8, generator).response
            try:
                weights.append(token_weights(which, instance, response))
            except UnauditableError:
                continue  # equal rewards, where they are divided by their standard deviation
        changes.append([{leaf: w[leaf] - weights[0][leaf] for leaf in w} for w in weights[1:]])
    before, after = changes
    if not before or len(before) != len(after):
        return False
    zero = torch.zeros((), dtype=torch.float64)  # the weight of what is not trained
    return all(
        torch.allclose(a.get(leaf, zero), b.get(leaf, zero), rtol=1e-9, atol=1e-12)
        for a, b in zip(before, after, strict=True)
        for leaf in a.keys() | b.keys()
    )
