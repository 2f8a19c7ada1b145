"""The curves of one run, or of several, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from objdsl.runtime.report import DOCUMENTED, read_metrics
from objdsl.source import visible

# The panels that every run has, first; the reports of the objectives come after them.
_FIRST = ("reward", "held_out", "entropy", "length", "kl_mu_old", "grad_norm")
_HIDDEN = {"step", "tokens", "tokens_per_second", "lr", "seconds", "mismatch", "objective"}


def plot(runs: Sequence[Path], output: Path, names: Sequence[str] = ()) -> Path:
    """Draws the metrics of `runs` against the step, a panel each, into `output` (PNG, SVG, PDF).

    `names` chooses the panels; without it, all that the runs have but times. Raises ValueError
    where a run has no metrics, or no run has one of `names`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = {_label(run, runs): _steps(run) for run in runs}
    panels = list(names) or _panels(steps)
    known = {name for run in steps.values() for step in run for name in step}
    for name in panels:
        if name not in known:
            raise ValueError(
                f"no run has the metric `{name}`; there are {', '.join(sorted(known))}"
            )
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, panels, strict=False):
        for label, run in steps.items():
            points = [(step["step"], step[name]) for step in run if name in step]
            if points:
                style = {"marker": "o", "markersize": 3} if len(points) < len(run) else {}
                axis.plot(*zip(*points, strict=True), label=_plain(label), linewidth=1.2, **style)
        axis.set_title(_plain(name).replace("_", " "), fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=9)
    if len(steps) > 1:
        axes.flat[0].legend(fontsize=8, frameon=False)
    else:
        figure.suptitle(_plain(next(iter(steps))), fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=140)
    plt.close(figure)
    return output


def _plain(text: str) -> str:
    """A name as matplotlib shows it letter by letter: between two dollars it would read TeX."""
    return visible(text).replace("$", r"\$")


def _steps(run: Path) -> list[dict[str, float]]:
    try:
        steps = read_metrics(run)
    except OSError:
        steps = []
    if not steps:
        raise ValueError(f"{run} has no metrics to draw")
    return steps


def _label(run: Path, runs: Sequence[Path]) -> str:
    names = [other.resolve().name for other in runs]
    name = run.resolve().name
    return name if names.count(name) == 1 else str(run)


def _panels(runs: Mapping[str, list[dict[str, float]]]) -> list[str]:
    seen = dict.fromkeys(name for run in runs.values() for step in run for name in step)
    own = [name for name in seen if name not in DOCUMENTED and not name.startswith("seconds")]
    return [name for name in _FIRST if name in seen] + [n for n in own if n not in _HIDDEN]
