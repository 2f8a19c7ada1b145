"""`objdsl import`: objectives from the configurations of frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]


def test_a_configuration_of_trl(run: Run) -> None:
    """Every command reads it by `trl:`."""
    Path("grpo.yaml").write_text("loss_type: dr_grpo\nscale_rewards: group\n")
    printed = run("import", "trl", "grpo.yaml")
    assert printed.exit_code == 0
    assert run("import", "trl", "grpo.yaml", "-o", "mine.obj").output == "wrote mine.obj\n"
    assert Path("mine.obj").read_text() == printed.output
    checked = run("check", "trl:grpo.yaml")
    assert checked.exit_code == 1
    assert "std-normalisation" in checked.output and "trl:grpo.yaml:" in checked.output
    assert "J(pi)" in run("explain", "trl:grpo.yaml").output
    refused = run("check", "--unsafe-fixes", "trl:grpo.yaml").output
    assert "not a file that can be written to" in refused


def test_mistakes_are_shown_where_they_are(run: Run) -> None:
    Path("grpo.yaml").write_text("loss_typ: dapo\n")
    for command in (("import", "trl", "grpo.yaml"), ("check", "trl:grpo.yaml")):
        result = run(*command)
        assert result.exit_code == 2
        assert "grpo.yaml:1:1" in result.output and "did you mean `loss_type`?" in result.output
    missing = run("check", "trl:nothing.yaml")
    assert missing.exit_code == 2
    assert "there is no configuration `nothing.yaml`" in missing.output
