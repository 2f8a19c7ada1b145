"""From settings to a run that is ready for its first step: the cheapest checks come first.

Nothing is written to the folder of the run before everything else has been loaded and checked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from objdsl.objective import Objective
from objdsl.runtime.data.example import columns_of
from objdsl.runtime.data.prompts import Prompt, encode_all
from objdsl.runtime.data.rewards import Judge, Rewards
from objdsl.runtime.data.tasks import Task, load_sets, load_task
from objdsl.runtime.engines.critic import ValueModel
from objdsl.runtime.engines.models import context_of, ends_of, pick_device, quiet_transformers
from objdsl.runtime.learning.evaluation import OWN, Evaluation
from objdsl.runtime.learning.learner import Learner
from objdsl.runtime.learning.needs import check_learner, needs_of
from objdsl.runtime.learning.rollout import Place, Source
from objdsl.runtime.learning.sampled import Sampled
from objdsl.runtime.learning.warm_start import warm_start
from objdsl.runtime.processes.ranks import Ranks, joined
from objdsl.runtime.report.metrics import Report
from objdsl.runtime.report.trackers import open_trackers
from objdsl.runtime.run import build, checks
from objdsl.runtime.run.build import Models
from objdsl.runtime.run.messages import introduction
from objdsl.runtime.run.run import Run
from objdsl.runtime.settings.config import TINY, Config, ConfigError
from objdsl.runtime.storage import random_state
from objdsl.runtime.storage.checkpoint import Progress
from objdsl.runtime.storage.run_folder import (
    RunFolder,
    begin_folder,
    compare,
    forget_false_start,
    open_folder,
)

WARM_START_STEPS = 400


def launch(
    config: Config,
    stack: ExitStack,
    *,
    resume: str | None = None,
    allow_changed: bool = False,
    console: Console | None = None,
) -> Run:
    """A run that is ready for its first step. `stack` closes what is opened.

    Raises what `loop.train` raises.
    """
    began = time.perf_counter()
    if config.learner.threads is not None:
        torch.set_num_threads(config.learner.threads)
    quiet_transformers()
    objective = build.load_objective(config)
    task = load_task(config.task, config.seed)
    objective, limits = build.with_limits(config, objective, task)
    needs = needs_of(objective)
    identity = build.identity_of(config, objective, task)
    ranks = stack.enter_context(joined(pick_device(config.model.device)))
    folder = ranks.broadcast_object(partial(_open, config, objective.name, resume, stack))
    notes = compare(folder, identity, config, allow_changed)
    start = folder.saved.progress if folder.saved else Progress(step=0, position=0, seconds=0.0)
    start = replace(start, states=objective.start(config.steps).resumed(start.states, start.step))

    # --- the parts; nothing is written yet
    models = build.load_models(config, objective, task, folder.saved, ranks)
    prompts, held_out = _encode(config, task, models)
    sets = {OWN: held_out} | _other_sets(config, models)
    warm_start_steps = 0 if folder.saved else _warm_start_steps(config, task)
    report = Report(console, silent=not ranks.first)
    # Batches are sent between processes from the CPU.
    device = ranks.device if ranks.size == 1 else torch.device("cpu")
    place = Place(models.policy.vocabulary, device, build.working_dtype(config))
    pairs = build.preferences_of(config, objective, needs, models.tokenizer, prompts, place)
    group = build.group_of(config, objective) if pairs is None else pairs.rows
    checks.check_step(config, objective, group)
    named = build.named_policies(config, needs, models.policy, models.tokenizer)
    following = {policy.name for policy in needs.following}
    check_learner(models.policy, objective, config.learner, {*named, *following, "ref"})
    source: Source | None = pairs
    if pairs is None and ranks.first:
        source = _open_source(
            config, objective, task, models, prompts, sets, place, folder, report, stack
        )
    sets = {name: examples for name, examples in sets.items() if examples}
    evaluation = None
    if isinstance(source, Sampled) and sets:
        evaluation = Evaluation(source, sets, config.evaluation)
    # An engine may refuse its settings: it is loaded before anything is computed.
    ranks.broadcast_object(partial(_start_sampler, source))

    # --- the folder
    if ranks.first:
        stack.push(partial(forget_false_start, folder))
        notes += begin_folder(folder, config, start)
    report.open(folder.path)
    stack.callback(report.close)
    if ranks.first:
        settings = config.model_dump(mode="json")
        report.track(open_trackers(config.report.trackers, folder.path, settings, start.step))
    for line in introduction(config, objective, task, models, source, folder, ranks):
        report.say(line)
    for note in [*notes, *limits]:
        report.say(note)
    if len(prompts) < len(task.train):
        limit = config.task.max_prompt_tokens
        report.say(f"{len(task.train) - len(prompts)} prompts have more than {limit} tokens")
    trained = {prompt.example.key for prompt in prompts}
    for name, examples in sets.items():
        if known := sum(prompt.example.key in trained for prompt in examples):
            which = f"evaluation.sets.{name}" if name else "the held-out part"
            report.say(f"{which}: {known} of {len(examples)} prompts are trained on, too")

    # --- the first weights
    if folder.saved is None:
        _warm_start(config, task, models, prompts, warm_start_steps, report, ranks)
        if isinstance(models.policy.critic, ValueModel) and config.learner.critic_model is None:
            models.policy.critic.start_from(models.policy.model)
    ranks.broadcast(models.policy.weights())
    ref = build.reference(
        needs, named, models.policy, models.tokenizer, folder.path, folder.saved is not None, ranks
    )
    followers = build.followers(needs, models.policy, folder.saved)
    learner = Learner(
        models.policy,
        objective,
        config.learner,
        steps=config.steps,
        tokens=config.sampler.prompts * group * build.longest_of(config, task),
        frozen=named | ref | followers,
        seed=config.seed,
        ranks=ranks,
        sharded=models.sharded,
    )
    learner.skipped = start.skipped
    if models.trainer is not None:
        learner.optimizer.restore(models.trainer["optimizer"])
        random_state.restore(models.trainer["rng"])
    return Run(
        config=config,
        objective=objective,
        identity=identity,
        folder=folder,
        ranks=ranks,
        models=models,
        prompts=prompts,
        source=source,
        evaluation=evaluation,
        learner=learner,
        report=report,
        start=start,
        progress=start,
        unreported=start.unreported,
        saved_step=start.step,
        warmed_up=warm_start_steps > 0,
        began=began,
    )


def _open(config: Config, objective: str, resume: str | None, stack: ExitStack) -> RunFolder:
    folder, lock = open_folder(config, objective, resume)
    stack.callback(lock.release)
    return folder


def _encode(config: Config, task: Task, models: Models) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to train on and to evaluate on, as tokens."""
    limit, options = config.task.max_prompt_tokens, config.task.chat_options
    prompts = encode_all(models.tokenizer, task.train, limit, options)
    held_out = encode_all(models.tokenizer, task.held_out, limit, options)
    if not prompts:
        raise ConfigError([f"every prompt has more than task.max_prompt_tokens {limit} tokens"])
    return prompts, held_out


def _other_sets(config: Config, models: Models) -> dict[str, list[Prompt]]:
    """The held-out sets besides the task's own, as tokens."""
    options = config.task.chat_options
    return {
        name: encode_all(models.tokenizer, examples, config.task.max_prompt_tokens, options)
        for name, examples in load_sets(config.evaluation.sets, config.task).items()
    }


def _open_source(
    config: Config,
    objective: Objective,
    task: Task,
    models: Models,
    prompts: list[Prompt],
    sets: Mapping[str, list[Prompt]],
    place: Place,
    folder: RunFolder,
    report: Report,
    stack: ExitStack,
) -> Sampled:
    """The sampler and the reward functions of the first rank."""
    assert models.replica is not None
    given = needs_of(objective).given
    held_out = [prompt for examples in sets.values() for prompt in examples]
    checks.check_answers(config, [*task.train, *(prompt.example for prompt in held_out)])
    judge = Judge(models.tokenizer, models.policy.device, report.say)
    rewards = Rewards(config.rewards, config.reward_deadline, config.reward_failures, judge)
    stack.callback(rewards.close)
    rewards.check(columns_of(task.train))
    checks.check_columns(objective, given, task.train, rewards)
    model, tokenizer = models.policy.model, models.tokenizer
    sampling = build.sampling_of(config, objective, task, ends_of(model, tokenizer))
    everything = [*prompts, *held_out]
    checks.check_context(config, context_of(model), everything, sampling)
    sampler = build.open_sampler(
        config, objective, models.replica, tokenizer, everything, sampling, folder.path, report.say
    )
    stack.callback(sampler.close)
    return Sampled(
        sampler=sampler,
        sampling=sampling,
        objective=objective,
        rewards=rewards,
        tokenizer=tokenizer,
        prompts=prompts,
        place=place,
        count=config.sampler.prompts,
        group=build.group_of(config, objective),
        rounds=build.rounds_of(config, objective, given),
        given=given,
        right=config.evaluation.right,
        seed=config.seed,
        say=report.say,
    )


def _start_sampler(source: Source | None) -> None:
    if isinstance(source, Sampled):
        source.sampler.start()


def _warm_start_steps(config: Config, task: Task) -> int:
    steps = config.warm_start.steps
    if task.demonstrate is None:
        if steps:
            raise ConfigError(
                [f"warm_start.steps is {steps}, but {task.name} has no worked examples"]
            )
        return 0
    if steps is None:
        return WARM_START_STEPS if config.model.name == TINY else 0
    return steps


def _warm_start(
    config: Config,
    task: Task,
    models: Models,
    prompts: list[Prompt],
    steps: int,
    report: Report,
    ranks: Ranks,
) -> None:
    report.begin("warm start", steps)
    ranks.broadcast_object(
        lambda: warm_start(
            models.policy,
            models.tokenizer,
            task,
            prompts,
            config.warm_start,
            steps=steps,
            seed=config.seed,
            progress=report.warm_start,
        )
    )
    report.end()
