"""Several objectives with several seeds: the same runs of each, their curves, and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from objdsl.files import replace_text
from objdsl.frozen import dataclass
from objdsl.runtime.processes.signals import StopRequest
from objdsl.runtime.report.metrics import is_evaluation, read_metrics
from objdsl.runtime.report.plot import plot_bands
from objdsl.runtime.run.build import load_objective
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.storage import checkpoint
from objdsl.runtime.storage.run_folder import ROOT, display_path

TABLE, CURVES = "table.csv", "curves.png"


@dataclass(frozen=True, slots=True)
class Several:
    """Runs of several objectives, each with the same seeds, and so the same data and first weights.

    Attributes:
        folder: has a folder for each objective, with one for each seed, the curves and the table.
        runs: the settings of each run, by the name of its objective.
    """

    folder: Path
    runs: Mapping[str, Sequence[Config]]

    def train(
        self,
        say: Callable[[str], None],
        *,
        resume: str | None = None,
        allow_changed: bool = False,
        stop: StopRequest | None = None,
    ) -> int | None:
        """Trains what is not complete, seed by seed, then shows the results.

        Args:
            resume: `auto` to continue; a run that is complete is left as it is.

        Returns the signal that stopped it, if one did. Raises what `loop.train` raises.
        """
        for configs in zip(*self.runs.values(), strict=True):
            for config in configs:
                assert config.output is not None
                if resume is not None and is_complete(config):
                    say(f"{display_path(config.output)} is complete")
                    continue
                result = train(config, resume=resume, allow_changed=allow_changed, stop=stop)
                if result.stopped is not None:
                    return result.stopped
        return None

    def report(self) -> list[str]:
        """Plots the curves, writes the table, and returns it as lines."""
        folders = {name: [_folder(run) for run in runs] for name, runs in self.runs.items()}
        rows = [row for name, runs in folders.items() for row in _rows(name, runs)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["objective", "metric", "mean", "least", "most"])
        writer.writerows(rows)
        replace_text(self.folder / TABLE, text.getvalue())
        curves = plot_bands(folders, self.folder / CURVES)
        return [*_table(rows), f"curves: {display_path(curves)}"]


def several(objectives: Sequence[str], config: Config, seeds: int) -> Several:
    """The runs of `objectives` with `seeds` seeds, from that of the settings on.

    Raises ConfigError where two objectives have one name.
    """
    names = [load_objective(config.model_copy(update={"objective": x})).name for x in objectives]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError([f"two objectives are called {name}: their runs need two folders"])
    folder = config.output or ROOT / "-".join(names)
    runs = {
        name: [
            config.model_copy(
                update={"objective": x, "seed": seed, "output": folder / name / f"seed-{seed}"}
            )
            for seed in range(config.seed, config.seed + seeds)
        ]
        for name, x in zip(names, objectives, strict=True)
    }
    return Several(folder, runs)


def is_complete(config: Config) -> bool:
    """Whether a run has done all its steps."""
    saved = checkpoint.find(_folder(config) / "checkpoints").saved
    return (
        saved is not None
        and saved.progress.step >= config.steps
        and saved.progress.unreported is None
    )


def _folder(config: Config) -> Path:
    assert config.output is not None
    return config.output


def _rows(name: str, runs: Sequence[Path]) -> list[tuple[str, str, float, float, float]]:
    """The last value of each held-out metric, and the mean reward of the last tenth of the steps:
    mean, least and most over the runs."""
    results: dict[str, list[float]] = {}
    for run in runs:
        steps = read_metrics(run)
        held_out = dict.fromkeys(x for step in steps for x in step if is_evaluation(x))
        last = {x: [step[x] for step in steps if x in step][-1] for x in held_out}
        rewards = [step["reward"] for step in steps if "reward" in step]
        if rewards:
            last["reward"] = fmean(rewards[-max(1, len(rewards) // 10) :])
        for metric, value in last.items():
            results.setdefault(metric, []).append(value)
    return [(name, metric, fmean(x), min(x), max(x)) for metric, x in results.items()]


def _table(rows: Sequence[tuple[str, str, float, float, float]]) -> list[str]:
    """A line for each objective: the mean of each metric, and its range over the seeds."""
    metrics = list(dict.fromkeys(metric for _, metric, *_ in rows))
    cells = {
        (name, metric): f"{mean:.3f} ({least:.3f} to {most:.3f})"
        for name, metric, mean, least, most in rows
    }
    names = list(dict.fromkeys(name for name, *_ in rows))
    lines = [["", *metrics], *([x, *(cells.get((x, m), "") for m in metrics)] for x in names)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
