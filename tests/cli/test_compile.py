from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import objdsl

Run = Callable[..., Result]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_it_prints_the_source_that_runs(run: Run, layout: str) -> None:
    printed = run("compile", "grpo", "--layout", layout).output
    assert printed == objdsl.load("grpo").source(layout)


def test_it_writes_a_file(run: Run) -> None:
    printed = run("compile", "grpo").output
    assert run("compile", "grpo", "-o", "grpo.py").output == "wrote grpo.py\n"
    assert Path("grpo.py").read_text() == printed


def test_the_tree_is_json_with_places_in_the_text(run: Run) -> None:
    text = "objective o\nmaximize mean[p,i,t] (reward * pi)\n"
    tree = json.loads(run("compile", "-", "--stage", "tree", input=text).output)
    header, goal = tree["statements"]
    assert header["node"] == "Header"
    assert goal["node"] == "Goal"
    start, end = goal["value"]["span"]
    assert text[start:end] == "mean[p,i,t] (reward * pi)"
