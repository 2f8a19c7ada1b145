"""Messages before the first step of a run and after its last."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping

from objdsl.objective import Objective, load
from objdsl.runtime.data.rewards import BUILT_IN
from objdsl.runtime.data.tasks import Task
from objdsl.runtime.learning.evaluation import Evaluation
from objdsl.runtime.learning.rollout import Source
from objdsl.runtime.learning.sampled import Sampled
from objdsl.runtime.processes.ranks import Ranks
from objdsl.runtime.run.build import Models
from objdsl.runtime.settings.config import Config
from objdsl.runtime.storage.run_folder import ROOT, RunFolder, display_path


def introduction(
    config: Config,
    objective: Objective,
    task: Task,
    models: Models,
    source: Source | None,
    folder: RunFolder,
    ranks: Ranks,
) -> Iterator[str]:
    params = ", ".join(f"{name} {value:g}" for name, value in objective.params.items())
    yield f"{objective.name}{f' ({params})' if params else ''} on {task.name}"
    size = sum(p.numel() for p in models.policy.model.parameters())
    yield (
        f"{config.model.name}: {size / 1e6:.3g} million weights, {config.model.dtype} "
        f"on {ranks.device}"
    )
    if ranks.size > 1:
        amount = "a part of" if models.sharded else "all"
        yield f"{ranks.size} processes, each with {amount} the weights"
    if isinstance(source, Sampled):
        yield (
            f"{source.count} prompts x {source.group} responses a step, "
            f"sampled by {source.sampler.name}"
        )
        declared = objective.sample.group
        if declared is not None and declared != source.group:
            yield f"group {source.group}, where {objective.name} declares {declared}"
        if objective.sample.staleness:
            yield "every response is sampled with the newest weights: staleness 0"
    else:
        yield f"{config.sampler.prompts} pairs a step, from the task: nothing is sampled"
    yield f"everything is written to {display_path(folder.path)}"


def score_name(config: Config) -> str:
    exact = config.rewards.keys() <= {*BUILT_IN} and len(config.rewards) == 1
    return "held-out accuracy (greedy)" if exact else "held-out reward (greedy)"


def before_lines(
    config: Config, evaluation: Evaluation | None, scores: Mapping[str, float]
) -> Iterator[str]:
    """The held-out scores before the first step, a line for each set."""
    for name, prompts in evaluation.sets.items() if evaluation is not None else ():
        prefix = f"{name}/" if name else ""
        mine = {x.removeprefix(prefix): value for x, value in scores.items() if _set(x) == name}
        line = f"{score_name(config)} before: {mine.pop('held_out'):.3f} ({len(prompts)} prompts)"
        line += "".join(f"  {metric} {value:.3f}" for metric, value in mine.items())
        yield f"{name}: {line}" if name else line


def _set(metric: str) -> str:
    """The held-out set of a metric."""
    return metric.rpartition("/")[0]


def resume_command(folder: RunFolder, steps: int | None = None) -> str:
    """The command that resumes a run, for more steps if `steps` says so."""
    command = ["objdsl", "train", "--config", display_path(folder.path / "config.yaml")]
    more = [] if steps is None else ["--steps", str(steps)]
    return shlex.join([*command, "--resume", display_path(folder.path), *more])


def last_line(config: Config, objective: Objective, folder: RunFolder, halted: int | None) -> str:
    """Suggests the next command, after a run that is complete or was `halted` by a signal."""
    if halted is not None:
        name = signal.Signals(halted).name
        return f"stopped by {name}; resume with: {resume_command(folder)}"
    plot_both = f"objdsl plot {shlex.quote(display_path(folder.path))}"
    other = _neighbour(objective)
    if other is not None and _is_plain(config):
        return f"next: objdsl train {other}   then: {plot_both} {ROOT / other}"
    if config.params or other is None:  # a different objective may not have these parameters
        return f"next: {plot_both}   or, for more steps: {resume_command(folder, 2 * config.steps)}"
    beside = folder.path.with_name(f"{folder.path.name}-{other}")
    command = ["objdsl", "train", other, "--config", display_path(folder.path / "config.yaml")]
    return (
        f"next: {shlex.join([*command, '--output', display_path(beside)])}   "
        f"then: {plot_both} {shlex.quote(display_path(beside))}"
    )


def _is_plain(config: Config) -> bool:
    """Whether every setting but the objective and the folder is the default."""
    free = {"objective", "output"}
    return config.model_dump(exclude=free) == Config().model_dump(exclude=free)


def _neighbour(objective: Objective) -> str | None:
    """A different objective of the gallery with the same inputs, to compare with."""
    for name in ("grpo", "dr_grpo", "dpo", "ipo"):
        other = load(name)
        learned = {"reward", "chosen"} & other.columns.keys()
        if name != objective.name and learned <= objective.columns.keys():
            return name
    return None
