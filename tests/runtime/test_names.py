"""Names in an objective that are also names of the run: metrics, settings, columns."""

from __future__ import annotations

from pathlib import Path

import objdsl
from objdsl.adapters.needs import refused
from objdsl.runtime.learning.monitors import ENTROPY, ROLLOUT
from objdsl.runtime.learning.needs import needs_of
from objdsl.runtime.report.metrics import renamed
from objdsl.runtime.settings.config_io import read_config


def test_reports_and_metrics_never_share_a_name() -> None:
    values = {"step": 1.0, "report_step": 2.0, "loss": 3.0}
    reports = renamed(values, ("step",), "report")
    assert reports == {"report_report_step": 1.0, "report_step": 2.0, "loss": 3.0}
    metrics = {"step": 4.0, "loss": 5.0, "run_loss": 6.0, "reward": 7.0}
    run = renamed(metrics, reports, "run")
    assert run == {"step": 4.0, "run_run_loss": 5.0, "run_loss": 6.0, "reward": 7.0}
    assert len({**run, **reports}) == len(values) + len(metrics)


def test_parameters_of_any_name_are_settings(tmp_path: Path) -> None:
    names = ("on", "y", "null", "lr", "steps", "lambda", "objective_")
    file = tmp_path / "run.yaml"
    file.write_text("params:\n" + "".join(f"  {name}: 0.5\n" for name in names))
    assert read_config(file).params == dict.fromkeys(names, 0.5)
    given = {f"params.{name}": "0.25" for name in names}
    assert read_config(None, [], given).params == dict.fromkeys(names, 0.25)


def test_a_column_is_no_policy_because_of_its_name() -> None:
    objective = objdsl.loads(
        "objective o\ngiven log_ratio[p,i,t]\ngiven x_dist[p,i,t]\npolicy teacher\n"
        "maximize mean[p,i,t] (log_ratio * x_dist * k3(pi, teacher))\n"
    )
    assert {"log_ratio", "x_dist"} <= set(needs_of(objective).given)
    assert needs_of(objective).frozen == {"log_teacher": ("teacher", "log_pi")}
    reasons = [*refused(objective, ("pi", "old", "ref"))]
    assert "it reads the column `log_ratio` of every token, which nothing there gives" in reasons
    assert "it reads the column `x_dist` of every token, which nothing there gives" in reasons
    assert "it reads the policy `teacher`, which is not there" in reasons


def test_columns_of_the_run_have_names_that_no_file_gives() -> None:
    assert not ROLLOUT.isidentifier() and not ENTROPY.isidentifier()
    objective = objdsl.loads(
        "objective o\ngiven entropy[p,i]\ngiven rollout[p,i]\n"
        "maximize mean[p,i,t] ((reward - entropy - rollout) * log(pi))\n"
    )
    assert {"entropy", "rollout"} == set(needs_of(objective).given)
