"""Training, from top to bottom: sample, reward, learn, report, until the steps are done."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from objdsl import gallery
from objdsl.files import replace_text
from objdsl.frozen import dataclass
from objdsl.objective import Objective, load
from objdsl.runtime import checkpoint, setup
from objdsl.runtime.checkpoint import CheckpointError, Identity, Progress, SaveError
from objdsl.runtime.config import TINY, Config, ConfigError, config_yaml
from objdsl.runtime.learner import Learner, TrainingError, check_learner, needs_of
from objdsl.runtime.models import (
    Policy,
    collect,
    context_of,
    ends_of,
    load_model,
    new_critic,
    pick_device,
    quiet_transformers,
    recompute_layers,
)
from objdsl.runtime.plot import plot
from objdsl.runtime.ranks import FirstRankError, Ranks, is_lost, joined
from objdsl.runtime.report import METRICS, SAMPLES, Clock, News, Report, forget_after
from objdsl.runtime.rewards import RewardError, Rewards
from objdsl.runtime.rollout import Place, Rollout, Sampled, Source
from objdsl.runtime.runs import ROOT, RunFolder, changed_settings, open_folder, shown
from objdsl.runtime.sampler import SamplerError
from objdsl.runtime.tasks import Task, columns_of, encode_all, load_task
from objdsl.runtime.trackers import open_trackers
from objdsl.runtime.warm_start import warm_start

WARM_START_STEPS = 400


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Attributes:
        before, after: mean reward of greedy responses to held-out prompts, None if not measured.
        stopped: the signal that ended the run early, or None.
    """

    folder: Path
    steps: int
    before: float | None
    after: float | None
    seconds: float
    stopped: int | None = None


def train(
    config: Config,
    *,
    resume: str | None = None,
    allow_changed: bool = False,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> Result:
    """Trains a policy as `config` says; every process that `torchrun` started calls this.

    The first of them alone samples, tells and writes.

    Args:
        resume: `auto`, or the path of a run or of a checkpoint; see `runs.open_folder`.
        allow_changed: go on from a checkpoint of another objective, task or model.
        stop: what a caller knows of signals; by default the run itself takes note of them.

    Whatever ends the run by an error but a kill, the last whole step is kept in a checkpoint first.

    Raises:
        ConfigError: for settings that cannot be a run, and a folder that another run writes to.
        ObjectiveError, FileNotFoundError: the objective is none.
        CheckpointError: for a checkpoint that this run cannot go on from, or that cannot be
            written.
        SamplerError: for a sampler that died too often or computes another policy.
        RewardError: a reward function failed.
        TrainingError: for a gradient that is not finite, or data that the objective cannot read.
        RankError: another process of the run is gone.
    """
    began = time.perf_counter()
    if config.learner.threads is not None:
        torch.set_num_threads(config.learner.threads)
    quiet_transformers()
    objective = setup.load_objective(config)
    needs = needs_of(objective)
    task = load_task(config.task, config.seed)
    identity = setup.identity_of(config, objective, task)

    with ExitStack() as stack:
        ranks = stack.enter_context(joined(pick_device(config.model.device)))

        def opened() -> RunFolder:
            folder, lock = open_folder(config, objective.name, resume)
            stack.callback(lock.release)
            return folder

        run = ranks.tell(opened)
        notes = _compared(run, identity, config, allow_changed)
        start = run.saved.progress if run.saved else Progress(step=0, position=0, seconds=0.0)

        # --- the parts; nothing is written yet
        model, tokenizer = load_model(config.model, task, config.seed, torch.device("cpu"))
        policy = Policy(
            model, temperature=objective.sample.temperature, autocast=config.learner.autocast
        )
        policy.critic = new_critic(model) if needs.critic else None
        trainer = run.saved.restore(policy) if run.saved else None
        spread = setup.spreads(config, model, ranks)
        for module in () if spread else (model, policy.critic):
            if module is not None:
                module.to(ranks.device)
        if config.learner.gradient_checkpointing:
            recompute_layers(model)
        replica = setup.replica_of(policy, ranks, spread)
        limit = config.task.max_prompt_tokens
        options = config.task.chat_options
        prompts = encode_all(tokenizer, task.train, limit, options)
        held_out = encode_all(tokenizer, task.held_out, limit, options)
        if not prompts:
            raise ConfigError([f"every prompt has more than task.max_prompt_tokens {limit} tokens"])
        warm_start_steps = 0 if run.saved else _warm_start_steps(config, task)
        # Between processes a batch travels on the CPU.
        device = ranks.device if ranks.many == 1 else torch.device("cpu")
        place = Place(policy.vocabulary, device, setup.working_dtype(config))
        pairs = setup.preferences_of(config, objective, needs, tokenizer, prompts, place)
        rows = setup.group_of(config, objective) if pairs is None else pairs.rows
        source: Source | None = pairs
        setup.check_step(config, objective, rows)
        named = setup.named_policies(config, needs, policy, tokenizer)
        check_learner(policy, objective, config.learner, {*named, "ref"})
        sampled: Sampled | None = None
        if source is None and replica is not None and ranks.first:
            setup.check_answers(config, [*task.train, *task.held_out])
            rewards = Rewards(config.rewards, config.reward_deadline)
            stack.callback(rewards.close)
            rewards.check(columns_of(task.train))
            setup.check_columns(objective, needs.given, task.train, rewards)
            sampling = setup.sampling_of(config, objective, task, ends_of(model, tokenizer))
            everything = [*prompts, *held_out]
            setup.check_context(config, context_of(model), everything, sampling)
            sampler = setup.open_sampler(
                config, objective, replica, tokenizer, everything, sampling, run.path,
                lambda text: report.say(text),
            )  # fmt: skip
            stack.callback(sampler.close)
            source = sampled = Sampled(
                sampler=sampler,
                sampling=sampling,
                objective=objective,
                rewards=rewards,
                tokenizer=tokenizer,
                prompts=prompts,
                place=place,
                count=config.sampler.prompts,
                group=rows,
                rounds=config.sampler.resample,
                given=needs.given,
                seed=config.seed,
            )

        # What an engine refuses is known once it is loaded; nothing has been computed by then.
        ranks.tell(lambda: sampled.sampler.start() if sampled is not None else None)

        # --- the folder
        if ranks.first:
            stack.push(partial(_forget_false_start, run))
            notes += _begin_folder(run, config, start)
        report = Report(run.path, console, silent=not ranks.first)
        stack.callback(report.close)
        if ranks.first:
            settings = config.model_dump(mode="json")
            report.track(open_trackers(config.report.trackers, run.path, settings, start.step))
            for line in _introduction(config, objective, task, policy, sampled, run, ranks, spread):
                report.say(line)
        for note in notes:
            report.say(note)
        if len(prompts) < len(task.train):
            report.say(f"{len(task.train) - len(prompts)} prompts have more than {limit} tokens")
        # --- the first weights
        if run.saved is None:
            report.begin("warm start", warm_start_steps)
            ranks.tell(
                lambda: warm_start(
                    policy, tokenizer, task, prompts, config.warm_start,
                    steps=warm_start_steps, seed=config.seed, progress=report.warm_start,
                )
            )  # fmt: skip
            report.end()
        ranks.agree(policy.weights())
        resumed = run.saved is not None
        frozen = named | setup.reference(needs, named, policy, tokenizer, run.path, resumed, ranks)
        learner = Learner(
            policy, objective, config.learner, steps=config.steps, frozen=frozen, seed=config.seed,
            ranks=ranks, spread=spread,
        )  # fmt: skip
        if trainer is not None:
            learner.restore(trainer["optimizer"])
            checkpoint.set_random_state(trainer["rng"])

        def sample(step: int, position: int, clock: Clock) -> Rollout:
            """What the first rank samples under the present weights, on every rank."""
            collect(policy, replica)

            def roll() -> Rollout:
                assert source is not None
                return source.roll(step, position, clock)

            rollout = ranks.tell(roll)
            return replace(rollout, batch=rollout.batch.to(ranks.device))

        def measure(step: int) -> float | None:
            """Mean reward of greedy responses to held-out prompts, under the present weights."""
            collect(policy, replica)

            def evaluate() -> float | None:
                if sampled is None or not held_out:
                    return None
                sampled.sampler.update(step)
                return sampled.evaluate(held_out)

            return ranks.tell(evaluate)

        # The last whole step, what of it is not written yet, and the step of the last checkpoint
        # (or the first one, as long as nothing would be lost with it).
        done, news = start, start.unreported
        kept_step: int | None = start.step

        def keep(together: bool = True) -> None:
            """Writes a checkpoint of the last whole step. Collective if `together`."""
            nonlocal kept_step
            collect(policy, replica)
            state = learner.state()

            def save() -> None:
                assert replica is not None
                seconds = start.seconds + time.perf_counter() - began
                checkpoint.save(
                    run.checkpoints,
                    replace(done, seconds=seconds, unreported=news),
                    identity,
                    config.model_dump(mode="json"),
                    replica,
                    tokenizer,
                    state,
                    keep=config.checkpoint.keep,
                )

            ranks.tell(save) if together else save()
            kept_step = done.step

        def rescue(error: Exception) -> None:
            """The run ends by an error: what it has done so far is kept, if it can be."""
            report.end()
            lost = ranks.many > 1 and is_lost(error) and ranks.first and not spread
            if isinstance(error, SaveError) or not (lost or _all_know(error, ranks)):
                return
            if kept_step != done.step:
                if not learner.rewind():
                    return
                try:
                    keep(together=not lost)
                except CheckpointError as other:
                    report.say(f"step {done.step} cannot be kept: {other}")
                    return
            if checkpoint.all_of(run.checkpoints):
                report.say(
                    f"ended after step {done.step}, which is kept; go on with: {_go_on(run)}"
                )

        stop = stop or stack.enter_context(stop_requests())
        stop.waits = True
        try:
            before = after = measure(start.step)
            if before is not None:
                report.say(f"{_score_name(config)} before: {before:.3f} ({len(held_out)} prompts)")
            if news is not None:  # the run before this one could not write it
                if _evaluated(start.step, config) and before is not None:
                    news.metrics.setdefault("held_out", before)
                ranks.tell(partial(report.step, news, config.report.samples))
                news = None
            elif before is not None and run.saved is None:
                ranks.tell(partial(report.record, {"step": 0, "held_out": before}))
                kept_step = None if warm_start_steps else 0

            # --- the steps
            report.begin(objective.name, config.steps, start.step)
            halted = None
            while done.step < config.steps and halted is None:
                clock = Clock()
                rollout = sample(done.step, done.position, clock)
                with clock.phase("learn"):
                    learned = learner.learn(rollout.batch, done.step)
                step = done.step + 1
                metrics = {"step": step, "epoch": rollout.position / len(prompts)}
                metrics |= {**rollout.metrics, **learned.metrics, **clock.metrics()}
                metrics["tokens_per_second"] = metrics["tokens"] / metrics["seconds"]
                last = step == config.steps
                samples = rollout.samples
                if not (last or _due(step, config.report.samples_every)):
                    samples = []
                done = Progress(step, rollout.position, start.seconds)
                news = News(metrics, learned.reports, samples)
                halted = None if last else ranks.most(stop.signal or 0) or None
                if _evaluated(step, config):
                    after = measure(step)
                    metrics |= {} if after is None else {"held_out": after}
                ranks.tell(partial(report.step, news, config.report.samples))
                news = None
                if last or halted or _due(step, config.checkpoint.every):
                    keep()
            report.end()
        except Exception as error:
            rescue(error)
            raise

        # --- what came of it
        seconds = time.perf_counter() - began
        if before is not None and after is not None and not halted:
            report.say(
                f"{_score_name(config)}: {before:.3f} -> {after:.3f} in {done.step - start.step} "
                f"steps ({seconds:.0f} s, everything counted)",
                "bold",
            )
        if config.report.curves and ranks.first:
            report.say(f"curves: {shown(plot([run.path], run.path / 'curves.png'))}")
        report.say(_last_line(config, objective, run, halted))
        return Result(run.path, done.step, before, after, seconds, halted)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _evaluated(step: int, config: Config) -> bool:
    """Whether held-out accuracy is measured after a step."""
    return step == config.steps or _due(step, config.report.evaluate)


def _all_know(error: Exception, ranks: Ranks) -> bool:
    """Whether an error ends the step of every rank, and none waits for another."""
    shared = (ConfigError, OSError, RewardError, SamplerError, TrainingError, FirstRankError)
    return ranks.many == 1 or isinstance(error, shared)


# --- before the first step -----------------------------------------------------------------------


def _compared(run: RunFolder, identity: Identity, config: Config, allow_changed: bool) -> list[str]:
    """What to say about a checkpoint that is gone on from.

    Raises CheckpointError where it is one of another run, or there is nothing left to do.
    """
    if run.saved is None:
        return []
    notes = [f"going on from {shown(run.saved.path)}", *filter(None, [run.saved.note])]
    differences = identity.differences(run.saved.identity)
    if differences and not allow_changed:
        raise CheckpointError(
            "the checkpoint is of another run (--allow-changed goes on all the same):\n"
            + "\n".join(f"  {line}" for line in differences)
        )
    steps = run.saved.progress.step
    if steps >= config.steps and (steps > config.steps or run.saved.progress.unreported is None):
        how_far = f"{steps} of {config.steps} steps"
        if steps > config.steps:
            how_far = f"{steps} steps, and this run is one of {config.steps}"
        raise CheckpointError(
            f"{run.saved.path} has done {how_far}: there is nothing left to do; "
            f"`--steps {steps + config.steps}` would go on"
        )
    changed = [*differences, *changed_settings(config, run.saved.config)]
    return notes + [f"changed since then: {line}" for line in changed]


def _begin_folder(run: RunFolder, config: Config, start: Progress) -> list[str]:
    """Makes the folder that of this run. What earlier ones wrote is replaced, or set aside.

    Returns what people should know of it.
    """
    notes = []
    checkpoint.sweep(run.checkpoints)
    for error in run.damaged:
        aside = checkpoint.set_aside(error.path, checkpoint.DAMAGED)
        notes.append(f"{error}; it is kept as {aside.name}")
    for path in checkpoint.after(run.checkpoints, start.step):
        aside = checkpoint.set_aside(path, checkpoint.LEFT)
        notes.append(f"{path} is of a later step; it is kept as {aside.name}")
    if run.began:
        notes.append(
            f"{run.path} holds a run that ended before its first checkpoint: it begins again"
        )
    # A step that was not reported is reported again.
    last = -1 if run.began else start.step if start.unreported is None else start.step - 1
    forget_after(run.path, last)
    for name, text in (
        ("config.yaml", config_yaml(config)),
        ("objective.obj", gallery.find(config.objective).text),
    ):
        try:
            replace_text(run.path / name, text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(run.path / name)) from None
    return notes


def _forget_false_start(
    run: RunFolder, kind: type[BaseException] | None, error: object, trace: object
) -> None:
    """Leaves no run behind that ended before it measured anything: its folder is free again.

    What an engine logged stays, for it says why.
    """
    metrics = run.path / METRICS
    if kind is None or run.saved is not None or run.began:
        return
    if not metrics.exists() or metrics.stat().st_size or checkpoint.ever(run.checkpoints):
        return
    for name in (METRICS, SAMPLES, "config.yaml", "objective.obj"):
        (run.path / name).unlink(missing_ok=True)
    shutil.rmtree(run.path / "ref", ignore_errors=True)


def _warm_start_steps(config: Config, task: Task) -> int:
    asked = config.warm_start.steps
    if task.demonstrate is None:
        if asked:
            raise ConfigError(
                [f"warm_start.steps is {asked}, but {task.name} has no worked examples"]
            )
        return 0
    if asked is None:
        return WARM_START_STEPS if config.model.name == TINY else 0
    return asked


# --- what people read ----------------------------------------------------------------------------


def _introduction(
    config: Config,
    objective: Objective,
    task: Task,
    policy: Policy,
    sampled: Sampled | None,
    run: RunFolder,
    ranks: Ranks,
    spread: bool,
) -> Iterator[str]:
    params = ", ".join(f"{name} {value:g}" for name, value in objective.params.items())
    yield f"{objective.name}{f' ({params})' if params else ''} on {task.name}"
    size = sum(p.numel() for p in policy.model.parameters())
    yield (
        f"{config.model.name}: {size / 1e6:.3g} million weights, {config.model.dtype} "
        f"on {ranks.device}"
    )
    if ranks.many > 1:
        yield f"{ranks.many} processes, each with {'a part of' if spread else 'all'} the weights"
    if sampled is None:
        yield f"{config.sampler.prompts} pairs a step, from the task: nothing is sampled"
    else:
        yield (
            f"{sampled.count} prompts x {sampled.group} responses a step, "
            f"sampled by {sampled.sampler.name}"
        )
        declared = objective.sample.group
        if declared is not None and declared != sampled.group:
            yield f"group {sampled.group}, where {objective.name} declares {declared}"
        if objective.sample.staleness:
            yield "every response is sampled with the newest weights: staleness 0"
    yield f"everything is written to {shown(run.path)}"


def _score_name(config: Config) -> str:
    exact = set(config.rewards) <= {"exact", "last_number"} and len(config.rewards) == 1
    return "held-out accuracy (greedy)" if exact else "held-out reward (greedy)"


def _go_on(run: RunFolder, steps: int | None = None) -> str:
    """The command that goes on with a run, to more steps than it has."""
    command = ["objdsl", "train", "--config", shown(run.path / "config.yaml")]
    more = [] if steps is None else ["--steps", str(steps)]
    return shlex.join([*command, "--resume", shown(run.path), *more])


def _last_line(config: Config, objective: Objective, run: RunFolder, halted: int | None) -> str:
    if halted is not None:
        name = signal.Signals(halted).name
        return f"stopped by {name}; go on with: {_go_on(run)}"
    plot_both = f"objdsl plot {shlex.quote(shown(run.path))}"
    other = _neighbour(objective)
    if other is not None and _is_plain(config):
        return f"next: objdsl train {other}   then: {plot_both} {ROOT / other}"
    if config.params or other is None:  # which another objective may not have
        return f"next: {plot_both}   or, for more steps: {_go_on(run, 2 * config.steps)}"
    beside = run.path.with_name(f"{run.path.name}-{other}")
    command = ["objdsl", "train", other, "--config", shown(run.path / "config.yaml")]
    return (
        f"next: {shlex.join([*command, '--output', shown(beside)])}   "
        f"then: {plot_both} {shlex.quote(shown(beside))}"
    )


def _is_plain(config: Config) -> bool:
    """Whether all settings are the defaults, but which objective it is, and where."""
    own = {"objective", "output"}
    return config.model_dump(exclude=own) == Config().model_dump(exclude=own)


def _neighbour(objective: Objective) -> str | None:
    """An objective of the gallery that reads what this one reads, to compare it with."""
    for name in ("grpo", "dr_grpo", "dpo", "ipo"):
        other = load(name)
        learned = {"reward", "chosen"} & other.columns.keys()
        if name != objective.name and learned <= objective.columns.keys():
            return name
    return None


# --- being stopped -------------------------------------------------------------------------------


@dataclasses.dataclass
class StopRequest:
    """The signal that asked the run to stop, once one has.

    Attributes:
        signal: its number, or None.
        waits: whether it ends the run after the step that the run is in; else it does so at once.
    """

    signal: int | None = None
    waits: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C end the run after the step that it is in; a second one ends it at once.

    So does the first one before `waits` is set. Once it is, nothing ends the process until this
    context does: whoever tells of an error opens it around the run and its own words. A launcher
    sends SIGTERM as soon as it sees that another rank has died.

    Only the main thread may handle signals; elsewhere nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        if not request.waits:
            restore()
            signal.raise_signal(number)
        elif request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
