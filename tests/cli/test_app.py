"""What all commands share: help, mistakes on the command line, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from objdsl.cli.app import OPTIONAL, SECTIONS, main

Run = Callable[..., Result]
COMMANDS = [name for section in SECTIONS.values() for name in section]


def test_help_lists_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.output


def test_a_chain_of_definitions_that_is_too_long_is_said(run: Run) -> None:
    chain = [f"a{k + 1} = a{k} + a{k}" for k in range(2_000)]
    goal = "maximize mean[p,i,t] a2000\n"
    assert run("compile", "-", input="\n".join(["a0 = pi", *chain, goal])).exit_code == 0
    result = run("compile", "-", input="\n".join([*reversed(chain), "a0 = pi", goal]))
    assert result.exit_code == 2
    assert "more than 64 deep" in result.output


@pytest.mark.parametrize("group", [[], ["gallery"]])
def test_no_command_is_summed_up_by_half_a_sentence(group: list[str], run: Run) -> None:
    lines = run(*group, "--help").output.splitlines()
    assert [line for line in lines[1:] if line.endswith("...")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str, run: Run) -> None:
    assert run(name, "--help").exit_code == 0
    with click.Context(main) as ctx:
        command = main.get_command(ctx, name)
        assert command is not None and command.help
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, f"objdsl {name} {param.opts[0]} has no help"


def test_version(run: Run) -> None:
    import objdsl

    assert run("--version").output == f"objdsl {objdsl.__version__}\n"


def test_an_unknown_command_gets_the_near_one(run: Run) -> None:
    result = run("chekc")
    assert result.exit_code == 2
    assert "did you mean `check`?" in result.output


def test_an_unknown_option_gets_the_near_one(run: Run) -> None:
    result = run("fmt", "--chekc")
    assert result.exit_code == 2
    assert "--check" in result.output


def test_an_unknown_objective_gets_the_near_one(run: Run) -> None:
    for command in ("check", "compile"):
        result = run(command, "dapoo")
        assert result.exit_code == 2
        assert "did you mean `dapo`?" in result.output


def test_a_text_that_is_no_objective_is_no_traceback(run: Run) -> None:
    Path("bad.obj").write_text("objective bad\nmaximize mean[t] rewadr\n")
    result = run("compile", "bad.obj")
    assert result.exit_code == 2
    assert "bad.obj:2:18" in result.output
    assert "`reward`" in result.output
    assert "Traceback" not in result.output


def test_a_reader_that_stops_early_is_no_error() -> None:
    shell = f"{sys.executable} -m objdsl compile grpo | head -n 1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('"""grpo')


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(("audit", "grpo"), "torch"), (("train", "grpo"), "yaml"), (("bench", "grpo"), "torch")],
)
def test_what_is_not_installed_is_named_with_what_brings_it(
    tmp_path: Path, arguments: tuple[str, ...], missing: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules[{missing!r}] = None\n", encoding="utf-8"
    )
    process = subprocess.run(
        [sys.executable, "-m", "objdsl", *arguments],
        capture_output=True, encoding="utf-8", check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr == (
        f"Error: this needs {missing}, which is not installed here: pip install 'objdsl[train]'\n"
    )


def test_optional_modules_are_what_the_extras_bring() -> None:
    """Imports outside the base dependencies, except those that a command itself catches."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    for module, extra in OPTIONAL.items():
        package = {"yaml": "pyyaml"}.get(module, module)
        brought = project["optional-dependencies"][extra]
        assert any(re.match(rf"{package}\b", requirement) for requirement in brought)
        assert not any(requirement.startswith(package) for requirement in project["dependencies"])
