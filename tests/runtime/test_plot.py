"""Plots: markers, lines, and the colours of several runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

from objdsl.runtime.report.plot import plot


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved."""
    figures: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def saved(self: Any, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", saved)
    return figures


def written(folder: Path, steps: int = 100, *, start: bool = True, every: int = 25) -> Path:
    """A run whose reward is the step, and whose accuracy is measured at some steps."""
    folder.mkdir()
    rows: list[dict[str, float]] = [{"step": 0, "held_out": 0.1}] if start else []
    for step in range(1, steps + 1):
        rows.append({"step": step, "reward": float(step), "entropy": 1 / step})
        if step % every == 0:
            rows[-1]["held_out"] = 0.5
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def curves(figure: Any) -> dict[str, Any]:
    return {axis.get_title(): axis.get_lines() for axis in figure.axes if axis.get_visible()}


@pytest.mark.parametrize("start", [False, True])
def test_only_sparse_metrics_have_markers(drawn: list[Any], tmp_path: Path, start: bool) -> None:
    plot([written(tmp_path / "run", start=start)], tmp_path / "curves.png")
    lines = curves(drawn[0])
    assert lines.keys() == {"reward", "held out", "entropy"}
    markers = {name: line.get_marker() for name, (line,) in lines.items()}
    assert markers == {"reward": "None", "held out": "o", "entropy": "None"}
    (reward,) = lines["reward"]
    assert [*reward.get_xdata()] == [*reward.get_ydata()] == [*range(1, 101)]


def test_a_single_step_is_visible(drawn: list[Any], tmp_path: Path) -> None:
    plot([written(tmp_path / "run", 1)], tmp_path / "curves.png", ["reward"])
    (reward,) = curves(drawn[0])["reward"]
    assert reward.get_marker() == "o"


@pytest.mark.parametrize("many", [2, 12])
def test_several_runs_have_different_colours(drawn: list[Any], tmp_path: Path, many: int) -> None:
    runs = [written(tmp_path / f"run-{k}", 40) for k in range(many)]
    plot(runs, tmp_path / "curves.svg")
    (figure,) = drawn
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [run.name for run in runs]
    assert all(axis.get_legend() is None for axis in figure.axes)
    lines = curves(figure)
    assert len({tuple(line.get_color()) for line in lines["held out"]}) == many
    # Each run, and its moving average.
    assert len(lines["reward"]) == 2 * many
    course = [*lines["reward"][1].get_ydata()]
    assert course == [1.0, *(step - 0.5 for step in range(2, 41))]


def test_nan_is_a_gap(drawn: list[Any], tmp_path: Path) -> None:
    runs = [written(tmp_path / name, 3) for name in ("a", "b")]
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward": NaN, "entropy": Infinity}\n{"step": 5, "rew')
    plot(runs, tmp_path / "curves.png")
    course = [*curves(drawn[0])["reward"][1].get_ydata()]
    assert course[:3] == [1, 2, 3]
    assert math.isnan(course[3])


def test_a_plot_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    run = written(tmp_path / "run", 3)
    (tmp_path / "curves.xyz").write_text("old")
    with pytest.raises(ValueError, match=r"curves.xyz: the format must be one of .*png"):
        plot([run], tmp_path / "curves.xyz")
    assert (tmp_path / "curves.xyz").read_text() == "old"
