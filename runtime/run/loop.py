"""Training, from top to bottom: sample, learn, evaluate, report, checkpoint, until it is done."""

from __future__ import annotations

from contextlib import ExitStack

from rich.console import Console

from objdsl.runtime.processes.signals import StopRequest, stop_requests
from objdsl.runtime.report.metrics import Clock
from objdsl.runtime.run.launch import launch
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config


def train(
    config: Config,
    *,
    resume: str | None = None,
    allow_changed: bool = False,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> Result:
    """Trains a policy as `config` says; every process that `torchrun` started calls this.

    The first process alone samples, reports and writes.

    Args:
        resume: `auto`, or the path of a run or of a checkpoint; see `run_folder.open_folder`.
        allow_changed: resume from a checkpoint of a different objective, task or model.
        stop: the caller's signal handler; without it the run installs its own.

    An error saves the last complete step in a checkpoint before it is raised; a kill cannot.

    Raises:
        ConfigError: the settings are not valid, or a different run writes to the folder.
        ObjectiveError, FileNotFoundError: the objective has mistakes, or does not exist.
        CheckpointError: a checkpoint cannot be resumed from, or cannot be written.
        SamplerError: the sampler died too often, or computes a different policy.
        RewardError: a reward function failed.
        TrainingError: too many steps were not finite, or the objective cannot read the data.
        RankError: another process of the run is gone.
    """
    with ExitStack() as stack:
        run = launch(config, stack, resume=resume, allow_changed=allow_changed, console=console)
        stop = stop or stack.enter_context(stop_requests())
        stop.waits = True
        halted = None
        with run.rescue():
            before = after = run.score_start()
            run.report.begin(run.objective.name, config.steps, run.step)
            while not run.complete and halted is None:
                clock = Clock()
                rollout = run.sample(clock)
                with clock.phase("learn"):
                    learned = run.learner.learn(rollout.batch, run.step, rollout.learned)
                run.advance(rollout, learned, clock)
                halted = run.stopped_by(stop)
                if run.is_due(config.evaluation.every):
                    after = run.evaluate()
                run.publish()
                if halted or run.is_due(config.checkpoint.every):
                    run.save()
            run.report.end()
        return run.conclude(before, after, halted)
