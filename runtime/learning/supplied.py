"""Columns from reward functions: what the objective reads of them, and which tokens it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from objdsl.ir.columns import Reward
from objdsl.ir.indices import TOKEN
from objdsl.objective import Objective
from objdsl.runtime.data.judge import shown
from objdsl.runtime.data.judged import Judged
from objdsl.runtime.data.rewards import RewardError, Scores
from objdsl.step.inputs import leaves

# A token column of reward functions: 1 for tokens that the policy learns from, 0 for text of the
# environment. An objective that declares a column of this name gets it as data instead.
LOSS_MASK = "loss_mask"


def is_masked(objective: Objective, scores: Scores) -> bool:
    """Whether the reward functions say which tokens the objective sees."""
    return LOSS_MASK in scores.columns and LOSS_MASK not in objective.all_columns


def check_kinds(objective: Objective, names: Sequence[str], scores: Scores) -> None:
    """Raises RewardError for a column per token where one per response is needed, or vice versa."""
    needed = {name: objective.all_columns[name].indices == TOKEN for name in names}
    reader = dict.fromkeys(names, objective.name)
    if is_masked(objective, scores):
        needed[LOSS_MASK], reader[LOSS_MASK] = True, "the trainer"
    for name in needed.keys() & scores.columns.keys():
        by_token = isinstance(scores.columns[name][0], list)
        if by_token != needed[name]:
            read, returned = ("response", "token") if by_token else ("token", "response")
            raise RewardError(
                f"reward function `{scores.functions[name]}` returned the column `{name}` with a "
                f"number per {returned}: {reader[name]} reads one per {read}"
            )


def check_domains(
    objective: Objective,
    names: Sequence[str],
    scores: Scores,
    judged: Judged,
    learned: Sequence[Sequence[int]],
) -> None:
    """Raises RewardError for a number that is outside of the domain which the objective declares.

    Args:
        learned: the positions of the tokens that the objective sees.
    """
    for name in names:
        domain = objective.formula.domains.get(name)
        if domain is None or name not in scores.columns:
            continue
        for k, (row, places) in enumerate(zip(scores.columns[name], learned, strict=True)):
            values = [row[t] for t in places] if isinstance(row, list) else [row]
            outside = leaves(domain, torch.tensor(values)).nonzero()[:1, 0].tolist()
            for at in outside:
                token = f"token {places[at]} of " if isinstance(row, list) else ""
                raise RewardError(
                    f"reward function `{scores.functions[name]}` column `{name}`: is "
                    f"{values[at]:g} for {token}response {k}, outside of its domain {domain} in "
                    f"{objective.name}{judged.named(k)}"
                )


def learned_tokens(objective: Objective, scores: Scores, judged: Judged) -> list[Sequence[int]]:
    """The positions of the tokens of each response that the objective sees.

    Raises RewardError for a mask that is neither 0 nor 1, that leaves no token of a response, or
    that removes one with a reward.
    """
    if not is_masked(objective, scores):
        return [range(len(tokens)) for tokens in judged.tokens]
    rewards = [
        name
        for name, column in objective.all_columns.items()
        if isinstance(column.role, Reward) and column.indices == TOKEN and name in scores.columns
    ]
    places: list[Sequence[int]] = []
    for k, mask in enumerate(scores.columns[LOSS_MASK]):
        _check_mask(mask, k, scores, judged)
        for name in rewards:
            values: list[Any] = scores.columns[name][k]
            lost = [t for t, value in enumerate(values) if value and not mask[t]]
            if lost:
                raise RewardError(
                    f"reward function `{scores.functions[name]}` column `{name}`: rewards token "
                    f"{lost[0]} of response {k} with {values[lost[0]]:g}, but `{LOSS_MASK}` "
                    f"removes the token: give the reward to one that is learned from"
                    f"{judged.named(k)}"
                )
        places.append(tuple(t for t, learned in enumerate(mask) if learned))
    return places


def _check_mask(mask: Sequence[float], response: int, scores: Scores, judged: Judged) -> None:
    function = scores.functions[LOSS_MASK]
    strange = [t for t, value in enumerate(mask) if value not in (0, 1)]
    if strange:
        problem = (
            f"is {shown(mask[strange[0]])} for token {strange[0]} of response {response}: it is 1 "
            "for tokens that are learned from, and 0 for text of the environment"
        )
    elif not any(mask):
        problem = f"leaves no token of response {response} to learn from"
    else:
        return
    raise RewardError(
        f"reward function `{function}` column `{LOSS_MASK}`: {problem}{judged.named(response)}"
    )
