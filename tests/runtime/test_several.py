"""Several objectives with several seeds: their runs, curves and table."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from objdsl.runtime.report.plot import plot_bands
from objdsl.runtime.run import several as module
from objdsl.runtime.run.several import several
from objdsl.runtime.settings.config import Config, ConfigError


def test_runs_of_one_seed_share_data_and_first_weights(
    settings: Callable[..., Config], numbers: Callable[[Path], list[dict[str, float]]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = settings("rloo", seed=3, steps=2, output=tmp_path / "both")
    names = ["rloo", "dr_grpo"]
    both = several(names, config, seeds=2)
    lines: list[str] = []
    assert both.train(lines.append) is None
    table = both.report()
    runs = {
        (name, seed): numbers(tmp_path / "both" / name / f"seed-{seed}")
        for name in names
        for seed in (3, 4)
    }
    for seed in (3, 4):
        first, other = (runs[name, seed] for name in names)
        assert first[0] == other[0]  # held out, before the first step
        for metric in ("reward", "length", "tokens", "entropy"):
            assert first[1][metric] == other[1][metric]
        assert first[1]["grad_norm"] != other[1]["grad_norm"]
    assert runs["rloo", 3][1] != runs["rloo", 4][1]

    with (tmp_path / "both" / "table.csv").open() as file:
        rows = {(row["objective"], row["metric"]): row for row in csv.DictReader(file)}
    for name in names:
        for metric in ("held_out", "reward"):
            last = [runs[name, seed][-1][metric] for seed in (3, 4)]
            values = [float(rows[name, metric][key]) for key in ("mean", "least", "most")]
            assert values == pytest.approx([fmean(last), min(last), max(last)])
            assert f"{fmean(last):.3f} ({min(last):.3f} to {max(last):.3f})" in "\n".join(table)
    assert (tmp_path / "both" / "curves.png").read_bytes().startswith(b"\x89PNG")

    # What is complete is not trained again; what is not, is.
    shutil.rmtree(tmp_path / "both" / "dr_grpo" / "seed-4")
    trained: list[Path] = []
    train = module.train

    def recorded(config: Config, **options: Any) -> Any:
        assert config.output is not None
        trained.append(config.output)
        return train(config, **options)

    monkeypatch.setattr(module, "train", recorded)
    several(names, config, seeds=2).train(lines.append, resume="auto")
    assert trained == [tmp_path / "both" / "dr_grpo" / "seed-4"]
    assert numbers(trained[0]) == runs["dr_grpo", 4]
    assert len([line for line in lines if line.endswith("is complete")]) == 3
    with pytest.raises(ConfigError, match="two objectives are called rloo"):
        several(["rloo", "rloo"], config, seeds=1)


def test_a_band_goes_from_the_least_to_the_largest_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.axes

    bands: list[tuple[Any, ...]] = []
    fill = matplotlib.axes.Axes.fill_between

    def filled(self: Any, *arguments: Any, **options: Any) -> Any:
        bands.append(arguments)
        return fill(self, *arguments, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "fill_between", filled)
    groups: dict[str, list[Path]] = {}
    for name, shift in (("a", 0), ("b", 10)):
        for seed in (1, 2, 4):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            steps = range(1, 4 + (seed == 4))  # one of the runs is longer
            lines = [f'{{"step": {k}, "reward": {shift + seed * k}}}\n' for k in steps]
            (folder / "metrics.jsonl").write_text("".join(lines))
            groups.setdefault(name, []).append(folder)
    plot_bands(groups, tmp_path / "curves.svg", ["reward"])
    assert bands == [
        ((1, 2, 3), (1, 2, 3), (4, 8, 12)),
        ((1, 2, 3), (11, 12, 13), (14, 18, 22)),
    ]
