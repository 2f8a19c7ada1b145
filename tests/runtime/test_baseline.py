"""The baseline of docs/training.md is what the page says it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import objdsl
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config
from objdsl.runtime.settings.config_io import read_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
# What a test of seconds changes: sizes, but nothing about how it learns.
SMALLER = {
    "steps": 3, "model.layers": 1, "model.width": 16, "model.heads": 2, "task.digits": 1,
    "task.held_out": 8, "sampler.engine": "transformers", "sampler.prompts": 8,
    "warm_start.batch": 64, "warm_start.lr": 2e-2, "checkpoint.every": 0, "report.curves": False,
}  # fmt: skip


@pytest.mark.parametrize("warm_start", [0, 60])
def test_the_baseline_runs(
    tmp_path: Path, numbers: Callable[[Path], list[dict[str, float]]], warm_start: int
) -> None:
    (block,) = re.findall(r"```yaml\n# baseline\.yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "baseline.yaml"
    file.write_text(block)
    more = {**SMALLER, "output": tmp_path / "run", "warm_start.steps": warm_start}
    config = read_config(file, (), more)
    assert (
        config.learner
        == Config.model_validate({"learner": yaml.safe_load(block)["learner"]}).learner
    )
    objective = objdsl.load(config.objective)
    assert not {"log_ref", "value"} & objective.all_columns.keys()
    out = StringIO()
    result = train(config, console=Console(file=out, width=500))
    steps = numbers(result.folder)
    assert {"pass_at_1", "pass_at_8", "maj_at_8"} <= steps[0].keys()
    for step in steps[1:]:
        # On policy, without a clip, and with the engines in agreement.
        assert not any(name.startswith(("kl_old_", "ratio_", "clip_")) for name in step)
        assert step["mismatch_max"] == pytest.approx(1, abs=1e-4)
        assert step["effective_responses"] == pytest.approx(1, abs=1e-4)
        assert step["skipped"] == 0
    truncated = [step["truncated"] for step in steps[1:]]
    assert (max(truncated) > 0) == ("of the responses are truncated" in out.getvalue())
    if warm_start:
        assert max(truncated) == 0
    else:
        assert max(truncated) > 0
