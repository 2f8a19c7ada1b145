"""Metrics and progress: a JSON line per step; a progress bar on a terminal, plain lines in a
log."""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from objdsl.files import replace_bytes
from objdsl.frozen import dataclass
from objdsl.runtime.report.trackers import Tracker
from objdsl.source import visible

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
# A suffix of files that keep the old lines of steps which a resumed run repeats.
DROPPED = ".dropped"

# What the runtime measures at every step, besides the reports of the objective.
DOCUMENTED = {
    "step": "steps done",
    "epoch": "prompts used so far, divided by the number of training prompts",
    "objective": "value of the formula, averaged over the optimizer steps of the rollout",
    "reward": "mean reward of the sampled responses",
    "held_out": "mean reward of the greedy responses to held-out prompts (where measured)",
    "pass_at_<k>": "probability that k sampled responses to a held-out prompt contain a right one: "
    "1 - C(n - c, k) / C(n, k) for c right ones of n (`evaluation.samples`)",
    "maj_at_<k>": "probability that the most frequent answer of k sampled responses is right",
    "<set>/<metric>": "a metric of held-out prompts, for the prompts of a set in `evaluation.sets`",
    "length": "mean length of the responses, in tokens",
    "length_<right,wrong>": "mean length of the right, and of the wrong responses, in tokens",
    "length_<right,wrong>_p<10,90>": "tenth and ninetieth percentiles of the lengths of the right, "
    "and of the wrong responses",
    "truncated": "share of responses that hit the token limit",
    "rounds": "sampling rounds of the step (where `keep` is decided while sampling)",
    "dropped": "prompts of the step that `keep` dropped",
    "zero_variance": "share of the prompts that are learned from whose responses all have the "
    "same reward",
    "unscored": "share of prompts that are dropped because a reward function failed, where "
    "`reward_failures` allows it",
    "entropy": "entropy of the policy, in nats per token",
    "kl_mu_old_k<1,2,3>": "estimates of KL(mu || old), between the sampling and the training "
    "engine, from the sampled tokens, in nats per token",
    "kl_old_ref_k<1,2,3>": "estimates of KL(old || ref), from the sampled tokens, in nats per "
    "token (where the objective reads `ref`)",
    "kl_old_pi_k<1,2,3>": "estimates of KL(old || pi), by which the policy has moved before an "
    "optimizer step (where a rollout has several), in nats per token",
    "mismatch": "mean of |log old - log mu| over the sampled tokens",
    "mismatch_max": "largest old / mu of a token",
    "effective_<tokens,responses>": "effective share of the sample under the weights old / mu of "
    "tokens, or of whole responses: (sum w)^2 / (n sum w^2)",
    "ratio_<right,wrong>": "mean of pi / old over the tokens of right and of wrong responses "
    "(where a rollout has several optimizer steps); `evaluation.right` says which are right",
    "ratio_<right,wrong>_<min,max>": "least and largest pi / old of a token of right and of wrong "
    "responses",
    "clip_<low,high>": "share of tokens, or of responses, whose gradient a clip of the objective "
    "removes: a ratio below it under a negative advantage, above it under a positive one",
    "weightless": "share of tokens whose weight dJ / dlog pi is 0: clipped, masked, or without "
    "advantage",
    "grad_norm": "norm of the gradient before clipping",
    "critic_grad_norm": "norm of the gradient of the critic before clipping, where the objective "
    "has one",
    "skipped": "optimizer steps that were skipped because something was not finite",
    "lr": "learning rate",
    "tokens": "sampled response tokens",
    "tokens_per_second": "response tokens divided by the seconds of the step",
    "seconds": "duration of the step, in seconds",
    "seconds_<phase>": "duration of a phase of the step, in seconds",
}


def _pattern(name: str) -> str:
    """The names that an entry stands for: `<k>` is anything, and `<low,high>` one of a list."""
    listed = re.sub("<([a-z0-9]+(?:,[a-z0-9]+)+)>", lambda x: f"({x[1].replace(',', '|')})", name)
    return re.sub("<[a-z]+>", "[^/]+", listed)


_METRIC = re.compile("|".join(_pattern(name) for name in DOCUMENTED if "/" not in name))
_EVALUATION = re.compile(r"(.+/)?(held_out|(pass|maj)_at_\d+)")


def is_metric(name: str) -> bool:
    """Whether the runtime may measure something of this name."""
    return _METRIC.fullmatch(name) is not None or is_evaluation(name)


def is_evaluation(name: str) -> bool:
    """Whether it is a metric of held-out prompts."""
    return _EVALUATION.fullmatch(name) is not None


# The metrics that are shown at each step, in this order, if they exist; first those of held-out
# prompts.
_SHOWN = ("reward", "length", "entropy", "truncated", "zero_variance")


class Clock:
    """Measures the duration of each phase of a step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        total = time.perf_counter() - self._start
        return {"seconds": total} | {f"seconds_{k}": v for k, v in self.seconds.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """A response, as text."""

    prompt: str
    response: str
    reward: float
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """The report of a step.

    Attributes:
        metrics: measured by the runtime, `step` among them.
        reports: the `report`s of the objective.
        samples: responses, for the steps that show them.
    """

    metrics: dict[str, float]
    reports: dict[str, float]
    samples: list[Sample]

    @staticmethod
    def read(state: Mapping[str, Any]) -> News:
        """The inverse of `asdict`."""
        samples = [Sample(**sample) for sample in state["samples"]]
        return News(dict(state["metrics"]), dict(state["reports"]), samples)


class _Lines:
    """A file of JSON lines; lines are written completely or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines. Raises OSError, with the name of the file, if the disk is full."""
        text = "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
        before = os.fstat(self._file).st_size
        try:
            while text:
                text = text[os.write(self._file, text) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        os.close(self._file)


class Report:
    """Reports to the run's folder, to trackers, and to the terminal or the log.

    Args:
        silent: report nothing, as on all ranks but the first.
    """

    def __init__(self, console: Console | None = None, *, silent: bool = False) -> None:
        console = console or Console(highlight=False, soft_wrap=True)
        self._console = Console(quiet=True, force_terminal=False) if silent else console
        self._silent = silent
        self._metrics: _Lines | None = None
        self._samples: _Lines | None = None
        self._trackers: list[Tracker] = []
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0

    def open(self, folder: Path) -> None:
        """Starts writing metrics and samples to a folder."""
        if not self._silent:
            self._metrics = _Lines(folder / METRICS)
            self._samples = _Lines(folder / SAMPLES)

    def close(self) -> None:
        self.end()
        for file in (self._metrics, self._samples):
            if file is not None:
                file.close()
        for tracker in self._trackers:
            tracker.close()

    def track(self, trackers: Sequence[Tracker]) -> None:
        """Sends the metrics to trackers too, and closes them with the report."""
        self._trackers += trackers

    def say(self, text: str, style: str = "") -> None:
        """Prints a line, above the progress bar if there is one."""
        (self._bar.console if self._bar else self._console).print(Text(visible(text), style))

    # --- progress ---------------------------------------------------------------------------------

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Shows progress towards `total` steps until `end`."""
        self.end()
        self._total = total
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[line]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(what, total=total, completed=done, line="")

    def progress(self, done: int, line: str, prefix: str, always: bool = False) -> None:
        """Updates the bar; without a terminal, prints a twentieth of the steps, or `always`."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, line=line)
        elif always or done in (1, self._total) or done % max(1, self._total // 20) == 0:
            width = len(str(self._total))
            self.say(f"{prefix} {done:>{width}}/{self._total}  {line}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def warm_start(self, done: int, loss: float) -> None:
        self.progress(done, f"loss {loss:.3f}", "warm start")

    # --- steps ------------------------------------------------------------------------------------

    def step(self, news: News, shown: int) -> None:
        """Writes the metrics of a step, and shows the main ones and `shown` samples.

        Reports of the objective keep their names; a metric of the runtime with the same name is
        renamed to `run_<name>`. Only a report called `step` is renamed, to `report_step`.
        """
        metrics = news.metrics
        reports = renamed(news.reports, ("step",), "report")
        renamed_metrics = renamed(metrics, reports, "run")
        step = int(metrics["step"])
        if self._samples is not None and news.samples:
            self._samples.write([_row(step, sample) for sample in news.samples])
        self.record({**renamed_metrics, **reports})
        held_out = [name for name in renamed_metrics if is_evaluation(name)]
        shown_names = [*held_out, *(name for name in _SHOWN if name in renamed_metrics)]
        main = {name: renamed_metrics[name] for name in shown_names}
        lines = {**main, **reports}
        parts = [f"{name} {value:.3g}" for name, value in lines.items()]
        speed = f"{metrics['seconds']:.2f} s  {metrics['tokens_per_second']:.0f} tokens/s"
        line = "  ".join([*parts, speed])
        self.progress(step, line, "step", always="held_out" in metrics)
        if news.samples and shown:
            self._show(step, news.samples, shown)

    def record(self, metrics: Mapping[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write([metrics])
        values = {name: value for name, value in metrics.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(values, int(metrics["step"]))

    def _show(self, step: int, samples: Sequence[Sample], shown: int) -> None:
        """Shows samples, of different prompts if possible."""
        picked = samples[:: max(1, len(samples) // shown)][:shown]
        if not self._console.is_terminal:
            for sample in picked:
                self.say(f"    {sample.prompt!r} -> {sample.response!r}  reward {sample.reward:g}")
            return
        table = Table(title=f"step {step}", title_justify="left", box=None, pad_edge=False)
        for column in ("prompt", "response", "reward"):
            table.add_column(column, overflow="fold")
        for sample in picked:
            texts = (Text(visible(text)) for text in (sample.prompt, sample.response))
            table.add_row(*texts, f"{sample.reward:g}")
        (self._bar.console if self._bar else self._console).print(table)


def _row(step: int, sample: Sample) -> dict[str, Any]:
    """A sample as a row; columns called like one of its keys are renamed to `column_<name>`."""
    row = {
        "step": step,
        "prompt": sample.prompt,
        "response": sample.response,
        "reward": sample.reward,
    }
    others = {f"column_{name}" if name in row else name: x for name, x in sample.columns.items()}
    return {**row, **others}


def renamed(values: Mapping[str, float], taken: Collection[str], prefix: str) -> dict[str, float]:
    """The values; names that are taken get the prefix, repeatedly if necessary."""
    result: dict[str, float] = {}
    for name, value in values.items():
        new = name
        while new in taken or new in result or (new != name and new in values):
            new = f"{prefix}_{new}"
        result[new] = value
    return result


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of each step of a run, without a last line that a crash truncated."""
    lines = (folder / METRICS).read_bytes().split(b"\n")
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The row of a complete line: an object with a step."""
    try:
        row = json.loads(line)
        complete = isinstance(row, dict) and isinstance(row.get("step"), int)
    except (ValueError, RecursionError):
        return None
    return row if complete else None


def forget_after(folder: Path, step: int) -> None:
    """Moves the lines after `step` to a separate file: a resumed run writes these steps again."""
    for name in (METRICS, SAMPLES):
        path = folder / name
        if not path.exists():
            continue
        kept: list[bytes] = []
        dropped: list[bytes] = []
        for line in path.read_bytes().splitlines(keepends=True):
            row = _parsed(line)
            stays = row is not None and row["step"] <= step and line.endswith(b"\n")
            (kept if stays else dropped).append(line)
        if dropped:
            aside = folder / f"{path.stem}{DROPPED}{path.suffix}"
            earlier = aside.read_bytes() if aside.exists() else b""
            replace_bytes(aside, earlier + b"".join(dropped).removesuffix(b"\n") + b"\n")
            replace_bytes(path, b"".join(kept))
