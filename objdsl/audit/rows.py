"""The figures of an audit: the bias of each case, and the weight of tokens by response length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from objdsl.audit.columns import is_bounded
from objdsl.audit.compare import Comparison, residual
from objdsl.audit.function import Function
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import Expected, expected
from objdsl.audit.instance import Instance
from objdsl.audit.plan import Case, Plan
from objdsl.audit.result import EXACT, Figure, Length, Row
from objdsl.audit.target import Target
from objdsl.objective import Objective


def gradients_of(
    objective: Objective | Function, plan: Plan, case: Case, tables: Mapping[str, Tensor]
) -> list[tuple[Instance, Expected]]:
    """The random instances of a case, and the expected gradient of each."""
    instances = instances_of(plan, case, tables, plan.roles.references)
    return [
        (instance, expected(objective, instance, plan.draw(instance))) for instance in instances
    ]


def row_of(case: Case, gradients: Sequence[tuple[Instance, Expected]], target: Target) -> Row:
    comparisons = [
        Comparison.of(gradient, target.gradient(instance)) for instance, gradient in gradients
    ]
    residuals, interval = residual(comparisons)
    return Row(
        case.reward,
        case.policies,
        Figure.of([x.cosine for x in comparisons], worst="min"),
        Figure.of(residuals),
        Figure.of([x.norm for x in comparisons]),
        Figure.of([x.bias for x in comparisons]),
        Figure.of([x.variance for x in comparisons]),
        interval,
    )


def lengths_of(
    objective: Objective | Function,
    plan: Plan,
    case: Case,
    tables: Mapping[str, Tensor],
    target: Target,
) -> tuple[Length, ...]:
    """The mean weight of a token by the length of its response, relative to the true gradient's.

    An objective with a baseline and without a bias has `E[w | y] = c A(y)`, `A(y) = R(y) - E R`;
    then `E[w] / (c E[A])` is 1 for every length, with the c that fits best. Real rewards are
    centred here, so that an objective without a baseline shows its weights, and not merely that the
    baseline is missing.

    Empty where the expected gradient does not point along the target, or is 0.
    """
    world = plan.world
    weight = torch.zeros(world.horizon + 1, 2, dtype=torch.float64)
    true = torch.zeros_like(weight)
    for instance in instances_of(plan, case, tables, plan.roles.references):
        instance, advantage = _centred(instance, plan, case, target)
        gradient = expected(objective, instance, plan.draw(instance))
        d = target.gradient(instance)
        square = float(d @ d)
        c = float(gradient.mean @ d) / square if square else 0.0
        if c <= EXACT or not bool(gradient.weights.any()):
            return ()
        index = (world.lengths.expand_as(advantage), (advantage > 0).long())
        weight.index_put_(index, gradient.weights.sum(-1) / world.lengths / c, accumulate=True)
        chance = world.chance(instance.policies["pi"])
        true.index_put_(index, chance * advantage / plan.prompts, accumulate=True)
    return tuple(_lengths(weight, true))


def _centred(instance: Instance, plan: Plan, case: Case, target: Target) -> tuple[Instance, Tensor]:
    """The instance with real rewards of mean 0, and the advantage `[P, Y]` of each response."""
    chance = plan.world.chance(instance.policies["pi"])
    advantage = torch.zeros_like(chance)
    rewards = dict(instance.rewards)
    factors = target.constants or (1.0,)
    for factor, name in zip(factors, target.roles.rewards, strict=False):
        table = instance.rewards[name]
        by_token = table.dim() == 3
        total = table.sum(-1) if by_token else table
        mean = (chance * total).sum(-1, keepdim=True)
        if case.reward == "real" and not by_token and not is_bounded(plan.rewards[name]):
            rewards[name] = table - mean
        advantage += factor * (total - mean)
    return replace(instance, rewards=rewards), advantage


def _lengths(weight: Tensor, true: Tensor) -> Iterator[Length]:
    for length in range(1, len(weight)):
        below, above = (
            float(weight[length, k] / true[length, k]) if true[length, k] != 0 else None
            for k in (0, 1)
        )
        yield Length(length, above, below)
