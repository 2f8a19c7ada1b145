"""Checks of a run before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch

from objdsl.diagnostic import near
from objdsl.ir.columns import LogProbs, Noise
from objdsl.ir.declarations import Domain
from objdsl.ir.indices import TOKEN, VOCAB
from objdsl.objective import Objective
from objdsl.runtime.data.example import Example, columns_of
from objdsl.runtime.data.prompts import Prompt
from objdsl.runtime.data.rewards import BUILT_IN, Rewards
from objdsl.runtime.engines.sampler import Sampling
from objdsl.runtime.learning.rollout import number
from objdsl.runtime.learning.sampled import GREEDY
from objdsl.runtime.learning.supplied import check_kinds
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.step.states import States

# Tokens per response, and prompts, of the step that is tried.
_TRIAL_TOKENS = 3
_TRIAL_PROMPTS = 16


def check_context(
    config: Config, context: int | None, prompts: Sequence[Prompt], sampling: Sampling
) -> None:
    """Raises ConfigError where prompt and response can exceed the context of the model."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    if context is not None and longest + sampling.max_tokens > context:
        raise ConfigError(
            [
                f"{config.model.name} reads {context} tokens, but the longest prompt has {longest} "
                f"and a response up to {sampling.max_tokens}: lower task.max_prompt_tokens or "
                "sampler.max_tokens"
            ]
        )


def check_answers(config: Config, examples: Sequence[Example]) -> None:
    """Raises ConfigError for a row without an answer, where a built-in reward compares with it."""
    judges = [name for name in config.rewards if name in BUILT_IN]
    for example in examples if judges else ():
        if example.columns.get("answer") is None:
            raise ConfigError(
                [
                    f"{example.name}: no answer in the column `{config.task.answer}` "
                    f"(task.answer), which the reward `{judges[0]}` compares with"
                ]
            )


def check_columns(
    objective: Objective,
    given: Sequence[str],
    examples: Sequence[Example],
    rewards: Rewards | None,
) -> None:
    """Checks that the task and the reward functions have every column of `given`.

    The columns of a function are known once it is called: if the task lacks a column, the
    functions are called with one empty response.

    Raises:
        ConfigError: a column is missing, is not a number, or is outside its declared domain.
        RewardError: a reward function fails, or returns a column per token that the objective reads
            per response, or the reverse.
    """
    task_columns = columns_of(examples)
    missing = []
    for name in given:
        if objective.all_columns[name].indices == TOKEN or name not in task_columns:
            missing.append(name)
            continue
        domain = objective.formula.domains.get(name, Domain())
        for example in examples:
            value = number(name, example)
            if not domain.holds(value):
                raise ConfigError(
                    [
                        f"{example.name}: the column `{name}` is {value:g}, outside of its domain "
                        f"{domain} in {objective.name}"
                    ]
                )
    missing = [name for name in missing if name != GREEDY]
    if not missing:
        return
    returned: Collection[str] = ()
    if rewards is not None:
        scores = rewards.trial(examples[0], task_columns)
        check_kinds(objective, given, scores)
        returned = scores.columns
    missing = [name for name in missing if name not in returned]
    if missing:
        raise ConfigError([_missing(objective, missing[0], task_columns, returned)])


def _missing(
    objective: Objective, name: str, task_columns: Collection[str], returned: Collection[str]
) -> str:
    """Why nobody supplies a column, and what it could be a slip for."""
    by_token = objective.all_columns[name].indices == TOKEN
    reads = f"{objective.name} reads the column `{name}`, a number per "
    if by_token and name in task_columns:
        return (
            f"{reads}token, but the column of the task cannot supply it: the tokens of a response "
            "are known once it is sampled, and a reward function returns a list for each"
        )
    others = returned if by_token else [*task_columns, *returned]
    guess = near(name, others)
    have = ", ".join(f"`{other}`" for other in (*task_columns, *returned)) or "none"
    who = "no reward function returns" if by_token else "neither the task nor a reward function has"
    hint = f"did you mean `{guess}`?" if guess else f"there are {have}"
    return f"{reads}{'token' if by_token else 'response'}, which {who}; {hint}"


def check_step(config: Config, objective: Objective, rows: int) -> None:
    """Checks that each phase of the objective can be prepared for steps of `rows` responses to each
    prompt.

    Raises ConfigError where one cannot, as for the standard deviation of one response.
    """
    try:
        steps = (objective.phase(States(step, config.steps)) for step in range(config.steps))
        distinct = [*dict.fromkeys(steps)]
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    for phase in distinct:
        _check_phase(config, phase, rows)


def _check_phase(config: Config, objective: Objective, rows: int) -> None:
    prompts = min(_TRIAL_PROMPTS, config.sampler.prompts // config.learner.minibatches)
    count = prompts * rows
    shapes = {TOKEN: (count, _TRIAL_TOKENS), VOCAB: (count, _TRIAL_TOKENS, 4)}
    domains = objective.formula.domains
    columns: dict[str, Any] = {}
    for name, column in objective.all_columns.items():
        if column.trained or isinstance(column.role, Noise):
            continue
        is_log = isinstance(column.role, LogProbs)
        value = -math.log(4) if is_log else domains.get(name, Domain()).two[1]
        columns[name] = torch.full(shapes.get(column.indices, (count,)), value)
    prompt = [k for k in range(prompts) for _ in range(rows)]
    mask = torch.ones(count, _TRIAL_TOKENS, dtype=torch.bool)
    try:
        states = objective.start(config.steps)
        remembered = objective.recall(states, prompt, **columns)
        objective.prepare(
            prompt=prompt,
            mask=mask,
            generator=torch.Generator().manual_seed(0),
            **{name: columns[name] for name in objective.columns if name in columns} | remembered,
        )
        if objective.formula.states:
            objective.advance(states, prompt, prompt=prompt, mask=mask, **columns)
    except ValueError as error:
        raise ConfigError(
            [f"{error} (sampler.group is {rows}, and an optimizer step has {prompts} prompts)"]
        ) from None
