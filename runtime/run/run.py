"""A run between its launch and its end: its parts, its position, and its actions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from objdsl import frozen
from objdsl.objective import Objective
from objdsl.runtime.data.prompts import Prompt
from objdsl.runtime.data.rewards import RewardError
from objdsl.runtime.engines.policy import collect
from objdsl.runtime.engines.probe import compare
from objdsl.runtime.engines.sampler import SamplerError
from objdsl.runtime.learning.evaluation import Evaluation
from objdsl.runtime.learning.learner import Learned, Learner
from objdsl.runtime.learning.optimizer import TrainingError
from objdsl.runtime.learning.rollout import Rollout, Source
from objdsl.runtime.processes.ranks import FirstRankError, Ranks, is_lost
from objdsl.runtime.processes.signals import StopRequest
from objdsl.runtime.report.metrics import Clock, News, Report, renamed
from objdsl.runtime.report.plot import plot
from objdsl.runtime.run.build import Models, tolerance_of
from objdsl.runtime.run.messages import before_lines, last_line, resume_command, score_name
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.storage import checkpoint
from objdsl.runtime.storage.checkpoint import Identity, Progress
from objdsl.runtime.storage.run_folder import RunFolder, display_path
from objdsl.runtime.storage.sealed_folder import CheckpointError, SaveError

# Errors that end the step of every rank, so that none waits for the others.
_SHARED_ERRORS = (
    ConfigError, OSError, RewardError, SamplerError, TrainingError, FirstRankError,
)  # fmt: skip


@frozen.dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a run.

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


@dataclass
class Run:
    """The parts of a run, and its position. Every rank has one; methods are collective.

    Attributes:
        source: where responses come from; None on the ranks that do not sample.
        evaluation: on held-out prompts; None on these ranks, and where nothing is sampled or held
            out.
        start: the progress that this process began with.
        progress: the last complete step.
        unreported: the metrics of that step, until they are written.
        saved_step: the step of the last checkpoint, or the first step while there is nothing to
            save; None if there is something to save before the first step.
        warmed_up: whether a warm start has changed the weights.
        began: when the process began, by `time.perf_counter`.
        truncated: whether a response has been truncated since then.
    """

    config: Config
    objective: Objective
    identity: Identity
    folder: RunFolder
    ranks: Ranks
    models: Models
    prompts: list[Prompt]
    source: Source | None
    evaluation: Evaluation | None
    learner: Learner
    report: Report
    start: Progress
    progress: Progress
    unreported: News | None
    saved_step: int | None
    warmed_up: bool
    began: float
    truncated: bool = False

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.progress.step

    @property
    def complete(self) -> bool:
        return self.step >= self.config.steps

    def is_due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return self.complete or (every > 0 and self.step % every == 0)

    # --- a step -----------------------------------------------------------------------------------

    def sample(self, clock: Clock) -> Rollout:
        """Samples responses with the current weights on the first rank; returns them on all."""
        collect(self.models.policy, self.models.replica)

        def roll() -> Rollout:
            assert self.source is not None
            progress = self.progress
            return self.source.roll(self.step, progress.position, clock, progress.states)

        rollout = self.ranks.broadcast_object(roll)
        return replace(rollout, batch=rollout.batch.to(self.ranks.device))

    def advance(self, rollout: Rollout, learned: Learned, clock: Clock) -> None:
        """Completes the step; its metrics are not written yet.

        Raises SamplerError where the responses are not those of the policy: its weights did not
        reach the sampler, or it computes them differently.
        """
        sample = self.objective.sample
        if "mismatch" in learned.metrics and (
            sample.keep_mask or (sample.top_p == 1 and sample.top_k is None)
        ):
            name = f"step {self.step + 1}: the sampler"
            compare(learned.metrics["mismatch"], tolerance_of(self.config), name)
        states = self.progress.states
        for reason in learned.skipped:
            self.report.say(f"step {self.step + 1}: an optimizer step is skipped: {reason}")
        if self.objective.formula.states and not learned.skipped:
            changed = partial(self.learner.advance, states, rollout.keys, learned.batch)
            states = self.ranks.broadcast_object(changed)
        else:
            states = replace(states, step=self.step + 1)
        self.progress = Progress(
            self.step + 1,
            rollout.position,
            self.start.seconds,
            states,
            skipped=self.learner.skipped,
        )
        metrics = {"step": self.step, "epoch": rollout.position / len(self.prompts)}
        metrics |= {**rollout.metrics, **learned.metrics, **clock.metrics()}
        if metrics.get("truncated") and not self.truncated:
            self.truncated = True
            self.report.say(
                f"step {self.step}: {metrics['truncated']:.1%} of the responses are truncated "
                "(sampler.max_tokens)"
            )
        metrics["tokens_per_second"] = metrics["tokens"] / metrics["seconds"]
        samples = rollout.samples if self.is_due(self.config.report.samples_every) else []
        reports = dict(learned.reports)
        reports |= renamed(learned.numbers, reports, "learned")
        reports |= renamed(states.summary(rollout.keys), reports, "state")
        self.unreported = News(metrics, reports, samples)

    def stopped_by(self, stop: StopRequest) -> int | None:
        """The signal that asked any rank to stop; None once the run is complete anyway."""
        return None if self.complete else self.ranks.all_reduce_max(stop.signal or 0) or None

    def evaluate(self) -> float | None:
        """The held-out score under the current weights; all of them are metrics of the step."""
        scores = self._scores()
        if self.unreported is not None:
            self.unreported.metrics.update(scores)
        return scores.get("held_out")

    def publish(self) -> None:
        """Writes and shows the metrics of the step."""
        if self.unreported is not None:
            show = partial(self.report.step, self.unreported, self.config.report.samples)
            self.ranks.broadcast_object(show)
        self.unreported = None

    def save(self, collective: bool = True) -> None:
        """Writes a checkpoint of the last complete step.

        Args:
            collective: whether all ranks take part; otherwise only this one.

        Raises SaveError if it cannot be written.
        """
        policy, replica = self.models.policy, self.models.replica
        collect(policy, replica)
        optimizer = self.learner.optimizer.state()
        following = self.learner.following.weights()

        def write() -> None:
            assert replica is not None
            seconds = self.start.seconds + time.perf_counter() - self.began
            checkpoint.save(
                self.folder.checkpoints,
                replace(self.progress, seconds=seconds, unreported=self.unreported),
                self.identity,
                self.config.model_dump(mode="json"),
                replica,
                self.models.tokenizer,
                optimizer,
                following,
                keep=self.config.checkpoint.keep,
            )

        if collective:
            self.ranks.broadcast_object(write)
        else:
            write()
        self.saved_step = self.step

    # --- before and after -------------------------------------------------------------------------

    def score_start(self) -> float | None:
        """The held-out score before the first step; also publishes an unreported earlier step."""
        scores = self._scores()
        for line in before_lines(self.config, self.evaluation, scores):
            self.report.say(line)
        if self.unreported is not None:
            if self.is_due(self.config.evaluation.every):
                metrics = self.unreported.metrics
                metrics.update({name: x for name, x in scores.items() if name not in metrics})
            self.publish()
        elif scores and self.folder.saved is None:
            row = {"step": 0, **scores}
            self.ranks.broadcast_object(partial(self.report.record, row))
            self.saved_step = None if self.warmed_up else 0
        return scores.get("held_out")

    def _scores(self) -> dict[str, float]:
        """The metrics of held-out prompts, under the current weights."""
        collect(self.models.policy, self.models.replica)

        def evaluate() -> dict[str, float]:
            if self.evaluation is None:
                return {}
            self.evaluation.source.sampler.update(self.step)
            return self.evaluation()

        return self.ranks.broadcast_object(evaluate)

    def conclude(self, before: float | None, after: float | None, halted: int | None) -> Result:
        seconds = time.perf_counter() - self.began
        if before is not None and after is not None and not halted:
            self.report.say(
                f"{score_name(self.config)}: {before:.3f} -> {after:.3f} in "
                f"{self.step - self.start.step} steps ({seconds:.0f} s, everything counted)",
                "bold",
            )
        path = self.folder.path
        if self.config.report.curves and self.ranks.first:
            self.report.say(f"curves: {display_path(plot([path], path / 'curves.png'))}")
        self.report.say(last_line(self.config, self.objective, self.folder, halted))
        return Result(path, self.step, before, after, seconds, halted)

    # --- errors -----------------------------------------------------------------------------------

    @contextmanager
    def rescue(self) -> Iterator[None]:
        """Saves the last complete step, if possible, when an error ends the run."""
        try:
            yield
        except Exception as error:
            self.report.end()
            self._rescue(error)
            raise

    def _rescue(self, error: Exception) -> None:
        one_process = self.ranks.size == 1
        lost = not one_process and is_lost(error) and self.ranks.first and not self.models.sharded
        shared = one_process or isinstance(error, _SHARED_ERRORS)
        if isinstance(error, SaveError) or not (lost or shared):
            return
        if self.saved_step != self.step:
            if not self.learner.optimizer.rewind():
                return
            try:
                self.save(collective=not lost)
            except CheckpointError as failure:
                self.report.say(f"step {self.step} cannot be saved: {failure}")
                return
        if checkpoint.all_of(self.folder.checkpoints):
            self.report.say(
                f"ended after step {self.step}, which is saved; "
                f"resume with: {resume_command(self.folder)}"
            )
