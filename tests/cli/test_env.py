"""`objdsl env`: what is installed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable

from click.testing import Result

import objdsl

Run = Callable[..., Result]


def test_it_says_what_a_bug_report_needs(run: Run) -> None:
    facts = json.loads(run("env", "--json").output)
    assert facts["objdsl"] == objdsl.__version__
    assert facts["python"] == platform.python_version()
    assert {"torch", "transformers", "cuda"} <= facts.keys()
    printed = run("env").output
    assert all(f"{value}\n" in printed for value in facts.values())
