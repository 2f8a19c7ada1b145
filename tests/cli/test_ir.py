"""Every command reads the output of `compile --stage ir`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import objdsl

Run = Callable[..., Result]


@pytest.fixture
def ir(run: Run) -> str:
    """The JSON of GRPO, which is also x.json in the current folder."""
    printed = run("compile", "grpo", "--stage", "ir").output
    Path("x.json").write_text(printed, encoding="utf-8")
    return printed


@pytest.mark.usefixtures("ir")
def test_commands_read_it(run: Run) -> None:
    assert run("diff", "grpo", "x.json").output.startswith("the same objective")
    assert run("compile", "x.json", "--stage", "ir").output == Path("x.json").read_text()
    assert "1 finding" not in run("explain", "x.json").output
    check = run("check", "x.json")
    assert check.exit_code == 1
    assert " --> x.json:8:33\n" in check.output
    assert "8 | A = (reward - mean[i] reward) / (std[i] reward + 0.0001)" in check.output
    options = ("--json", "--group", "2", "--vocabulary", "2", "--horizon", "1", "--policies", "1")
    audits = [json.loads(run("audit", name, *options).output) for name in ("x.json", "grpo")]
    assert audits[0]["rows"] == audits[1]["rows"]


@pytest.mark.usefixtures("ir")
def test_python_reads_it() -> None:
    here, there = objdsl.load("x.json", eps=0.1), objdsl.load("grpo", eps=0.1)
    assert here.formula.digest == there.formula.digest
    assert here.params == there.params


def test_it_comes_through_a_pipe(run: Run, ir: str) -> None:
    assert "<stdin>:8:33" in run("check", "-", input=ir).output
    text = run("fmt", "-", input=ir).output
    assert text.startswith("objective grpo\n\nparam eps = 0.2 in (0, 1)\n")
    Path("x.obj").write_text(text, encoding="utf-8")
    assert run("diff", "x.obj", "grpo").exit_code == 0


@pytest.mark.parametrize("arguments", [["fmt", "x.json"], ["check", "x.json", "--unsafe-fixes"]])
def test_it_is_never_written_over(run: Run, ir: str, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "x.json is JSON, and is not rewritten" in result.output
    assert Path("x.json").read_text() == ir


def test_what_is_wrong_ends_a_command_with_2(run: Run, ir: str) -> None:
    Path("x.json").write_text(ir.replace('"op": "sub"', '"opp": "sub"', 1), encoding="utf-8")
    for command in ("check", "compile", "audit", "explain"):
        result = run(command, "x.json")
        assert result.exit_code == 2
        assert "error[OBJ924 malformed-ir]: the Binary of `nodes[2]` has no field `opp`" in (
            result.output
        )
        assert "did you mean `op`?" in result.output
    missing = run("check", "y.json")
    assert missing.exit_code == 2 and "did you mean `x.json`?" in missing.output
    Path("z.json").write_bytes(b"{" + b" " * 3_000_000)
    assert "OBJ904 too-large" in run("check", "z.json").output
