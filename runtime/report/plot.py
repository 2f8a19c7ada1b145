"""Learning curves of one run or several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from objdsl.files import replace_bytes
from objdsl.runtime.report.metrics import is_evaluation, is_metric, read_metrics
from objdsl.source import visible

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

# The panels of every run; the reports of the objectives come after them.
_FIRST = ("reward", "held_out", "entropy", "length", "kl_mu_old_k3", "grad_norm")


def plot(runs: Sequence[Path], output: Path, names: Sequence[str] = ()) -> Path:
    """Plots the metrics of `runs` by step, one panel per metric, to `output` (PNG, SVG, PDF).

    Args:
        names: the metrics; by default all except durations.

    Raises ValueError where a run has no metrics, or no run has one of `names`.
    """
    return plot_bands({_label(run, runs): [run] for run in runs}, output, names)


def plot_bands(
    groups: Mapping[str, Sequence[Path]], output: Path, names: Sequence[str] = ()
) -> Path:
    """Plots the metrics of groups of runs, such as those of an objective with several seeds: the
    mean of each group, in a band from its least to its largest value. See `plot`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = {label: [_steps(run) for run in runs] for label, runs in groups.items()}
    every = [run for runs in steps.values() for run in runs]
    panels = list(names) or _panels(every)
    known = {name for run in every for step in run for name in step}
    for name in panels:
        if name not in known:
            raise ValueError(
                f"no run has the metric `{name}`; known metrics: {', '.join(sorted(known))}"
            )
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    colours = plt.get_cmap("tab10" if len(steps) <= 10 else "turbo", max(len(steps), 10))
    lines: dict[str, Artist] = {}
    for axis, name in zip(axes.flat, panels, strict=False):
        for number, (label, runs) in enumerate(steps.items()):
            curves = [[(step["step"], step[name]) for step in run if name in step] for run in runs]
            measured = [k for k, points in enumerate(curves) if points]
            if not measured:
                continue
            colour = colours(number)
            sparse = any(_is_sparse(curves[k], runs[k]) for k in measured)
            dots = {"marker": "o", "markersize": 3} if sparse else {}
            if len(every) > 1 and not dots:
                # Several curves are compared by their trend: the single steps are faint.
                if len(runs) == 1:
                    x, y = zip(*curves[0], strict=True)
                    axis.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
                curves = [_smooth(points) for points in curves]
            x, least, mean, most = zip(*_band([curves[k] for k in measured]), strict=True)
            if len(measured) > 1:
                axis.fill_between(x, least, most, color=colour, alpha=0.2, linewidth=0)
            (line,) = axis.plot(x, mean, color=colour, label=_plain(label), linewidth=1.3, **dots)
            lines.setdefault(label, line)
        axis.set_title(_plain(name).replace("_", " "), fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=9)
    if len(steps) > 1:  # the legend is below the panels, where it covers no curve
        figure.legend(
            handles=[*lines.values()], loc="outside lower center", fontsize=8, frameon=False,
            ncols=min(len(lines), 2 * columns),
        )  # fmt: skip
    else:
        figure.suptitle(_plain(next(iter(steps))), fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=140, format=_format(output, figure))
    plt.close(figure)
    replace_bytes(output, drawn.getvalue())
    return output


def _format(output: Path, figure: Figure) -> str:
    """The format of a file, by its suffix. Raises ValueError for an unknown one."""
    kind = output.suffix.removeprefix(".").lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"{output}: the format must be one of {', '.join(sorted(known))}")
    return kind


def _is_sparse(points: Sequence[tuple[float, float]], run: Sequence[Mapping[str, float]]) -> bool:
    """Whether a metric is measured at some steps only, so that its points are marked."""
    learned = sum(1 for step in run if any(not is_evaluation(x) for x in step.keys() - {"step"}))
    return len(points) < 2 or len(points) < learned


def _band(
    curves: Sequence[Sequence[tuple[float, float]]],
) -> list[tuple[float, float, float, float]]:
    """The steps at which all curves have a point, with the least, mean and largest value."""
    by_step = [dict(points) for points in curves]
    common = [step for step, _ in curves[0] if all(step in points for points in by_step)]
    values = [(step, [points[step] for points in by_step]) for step in common]
    return [(step, min(many), sum(many) / len(many), max(many)) for step, many in values]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Moving averages over a twentieth of the points, ignoring NaN and infinities."""
    width = max(1, len(points) // 20)
    smooth = []
    for k, (step, _) in enumerate(points):
        window = [y for _, y in points[max(0, k + 1 - width) : k + 1] if math.isfinite(y)]
        smooth.append((step, sum(window) / len(window) if window else math.nan))
    return smooth


def _plain(text: str) -> str:
    """A name that matplotlib does not read as TeX: dollars are escaped."""
    return visible(text).replace("$", r"\$")


def _steps(run: Path) -> list[dict[str, float]]:
    try:
        steps = read_metrics(run)
    except OSError:
        steps = []
    if not steps:
        raise ValueError(f"{run} has no metrics to plot")
    return steps


def _label(run: Path, runs: Sequence[Path]) -> str:
    names = [other.resolve().name for other in runs]
    name = run.resolve().name
    return name if names.count(name) == 1 else str(run)


def _panels(runs: Sequence[list[dict[str, float]]]) -> list[str]:
    seen = dict.fromkeys(name for run in runs for step in run for name in step)
    common = [name for name in _FIRST if name in seen]
    others = [x for x in seen if is_evaluation(x) or not is_metric(x)]
    return list(dict.fromkeys(common + others))
