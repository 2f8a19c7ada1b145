"""`objdsl explain`: what an objective does, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from helpers.samples import entries
from objdsl.objectives import gallery

Run = Callable[..., Result]


@pytest.mark.parametrize("name", ["grpo", "gspo", "deepseek_v32", "ppo", "dpo", "opo"])
def test_an_explanation(run: Run, golden: Callable[[str, str], None], name: str) -> None:
    golden(f"explain/{name}.txt", run("explain", name).output)


@pytest.mark.parametrize("name", entries())
def test_every_entry_can_be_explained(run: Run, name: str) -> None:
    result = run("explain", name)
    assert result.exit_code == 0
    assert "Nearest in the gallery" in result.output


def test_the_nearest_is_the_objective_itself_under_another_name(run: Run) -> None:
    text = gallery.bundled("dapo").text.replace("objective dapo", "objective mine")
    Path("mine.obj").write_text(text.replace("R = reward", "Q = reward").replace("R", "Q"))
    assert (
        "dapo: the same mathematics\n        R is called Q here\n"
        in run("explain", "mine.obj").output
    )


def test_latex(run: Run) -> None:
    printed = run("explain", "grpo", "--latex").output
    assert r"\operatorname" in printed or r"\mathrm" in printed
    assert "Nearest" not in printed
