"""What a run tells: a line of JSON per step; progress on a terminal, plain lines in a log."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from objdsl.frozen import dataclass
from objdsl.runtime.trackers import Tracker
from objdsl.source import visible

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"

# What the runtime measures at every step, beside the reports of the objective.
DOCUMENTED = {
    "step": "steps done",
    "epoch": "prompts that were taken, over the number of training prompts",
    "objective": "value of the formula, averaged over the optimizer steps of the rollout",
    "reward": "mean reward of the sampled responses",
    "held_out": "mean reward of the greedy responses to held-out prompts (where measured)",
    "length": "mean length of the responses, in tokens",
    "truncated": "share of responses that hit the limit of tokens",
    "zero_variance": "share of prompts whose responses all have the same reward",
    "entropy": "of the policy, in nats a token",
    "kl_mu_old": "k3 estimate of KL(mu || old): sampling engine against training engine",
    "mismatch": "mean |log old - log mu| over the sampled tokens",
    "grad_norm": "norm of the gradient before clipping",
    "lr": "learning rate",
    "tokens": "response tokens that were sampled",
    "tokens_per_second": "response tokens over the seconds of the whole step",
    "seconds": "the whole step; `seconds_<phase>` are its parts",
}

# What people see of a step, in this order, where it exists.
_SHOWN = ("held_out", "reward", "length", "entropy", "truncated", "zero_variance")


class Clock:
    """Seconds by phase."""

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
        whole = time.perf_counter() - self._start
        return {"seconds": whole} | {f"seconds_{k}": v for k, v in self.seconds.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """A response as people read it."""

    prompt: str
    response: str
    reward: float
    columns: Mapping[str, Any]


class Report:
    """Writes to the run's folder, and tells the terminal or the log.

    Args:
        silent: write and tell nothing, as all ranks but the first do.
    """

    def __init__(
        self, folder: Path, console: Console | None = None, *, silent: bool = False
    ) -> None:
        console = console or Console(highlight=False, soft_wrap=True)
        self._console = Console(quiet=True, force_terminal=False) if silent else console
        files = [Path(os.devnull)] * 2 if silent else [folder / METRICS, folder / SAMPLES]
        self._metrics, self._samples = (file.open("a", encoding="utf-8") for file in files)
        self._trackers: list[Tracker] = []
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0

    def close(self) -> None:
        self.end()
        self._metrics.close()
        self._samples.close()
        for tracker in self._trackers:
            tracker.close()

    def track(self, trackers: Sequence[Tracker]) -> None:
        """Gives them the metrics too, and closes them with the report."""
        self._trackers += trackers

    def say(self, text: str, style: str = "") -> None:
        """A line for people; above the progress, if there is one."""
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
        """Moves the bar; without a terminal, prints one step in twenty, and those to `always`."""
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

    def step(self, metrics: Mapping[str, float], reports: Mapping[str, float]) -> None:
        """Writes a step's metrics, and shows the ones that people look at first.

        A report of the objective has its own name; where the runtime measures something by the
        same name, that is `run_<name>`. Lines are known by their `step`: a report of that name is
        `report_step`.
        """
        reports = {"report_step" if name == "step" else name: x for name, x in reports.items()}
        own = {f"run_{name}" if name in reports else name: x for name, x in metrics.items()}
        self.record({**own, **reports})
        shown = {**{name: own[name] for name in _SHOWN if name in own}, **reports}
        parts = [f"{name} {value:.3g}" for name, value in shown.items()]
        speed = f"{metrics['seconds']:.2f} s  {metrics['tokens_per_second']:.0f} tokens/s"
        line = "  ".join([*parts, speed])
        self.progress(int(metrics["step"]), line, "step", always="held_out" in metrics)

    def record(self, metrics: Mapping[str, float]) -> None:
        self._metrics.write(json.dumps(metrics) + "\n")
        self._metrics.flush()
        values = {name: value for name, value in metrics.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(values, int(metrics["step"]))

    def samples(self, step: int, samples: Sequence[Sample], shown: int) -> None:
        """Writes all of them; shows `shown`, of different prompts if there are as many."""
        for sample in samples:
            row = {"step": step, "prompt": sample.prompt, "response": sample.response}
            self._samples.write(
                json.dumps({**row, "reward": sample.reward, **sample.columns}, default=str) + "\n"
            )
        self._samples.flush()
        if not shown:
            return
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


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The steps of a run. A last line that a crash cut short is left out."""
    steps = []
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return steps


def forget_after(folder: Path, step: int) -> None:
    """Drops what was written after `step`: a resumed run writes these steps again."""
    for name in (METRICS, SAMPLES):
        path = folder / name
        if not path.exists():
            continue
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except json.JSONDecodeError:
                break
        fresh = path.with_suffix(".writing")
        fresh.write_text("".join(kept), encoding="utf-8")
        os.replace(fresh, path)
