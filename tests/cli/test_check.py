"""`objdsl check`: findings, in every format, and the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import yaml
from click.testing import Result

from objdsl.cli.app import main
from objdsl.objectives import gallery
from objdsl.render.schema import Report

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]
GOOD = "objective good\nmaximize mean[p,i] (reward * sum[t] log(pi))\n"
BAD = "objective bad\nA = rewrd\nB = mean[t] reward\nC = log(odl)\nmaximize mean[p,i,t] (A * pi)\n"


def test_the_whole_gallery_is_clean(run: Run) -> None:
    result = run("check", *gallery.names())
    files = len(gallery.names())
    assert re.match(
        rf"{files} files checked, nothing to report \(\d+ notes, \d+ suppressed\)\n$", result.output
    )
    assert result.exit_code == 0
    strict = run("check", "--strict", *gallery.names())
    assert strict.exit_code == 1


def test_every_error_of_every_file_is_shown_at_once(run: Run) -> None:
    Path("bad.obj").write_text(BAD)
    Path("good.obj").write_text(GOOD)
    Path("worse.obj").write_text("objective worse\nmaximize )\n")
    result = run("check", "bad.obj", "good.obj", "worse.obj")
    assert result.exit_code == 2
    for place in ("bad.obj:2:5", "bad.obj:3:", "bad.obj:4:", "worse.obj:2:10"):
        assert place in result.output
    assert "4 errors in 3 files" in result.output


def test_without_files_it_checks_the_folder(run: Run) -> None:
    assert "there is no .obj file in" in run("check").output
    for folder in ("mine", ".hidden", "build"):
        Path(folder).mkdir()
    Path("a.obj").write_text(GOOD)
    Path("mine/b.obj").write_text(GOOD)
    Path(".hidden/c.obj").write_text(BAD)
    Path("build/d.obj").write_bytes(b"\x7fELF\x00")
    assert run("check").output == "2 files checked, nothing to report\n"
    assert run("check", "mine").output == "1 file checked, nothing to report\n"


def test_standard_input(run: Run) -> None:
    assert run("check", "-", input=GOOD).exit_code == 0
    result = run("check", "-", input=BAD)
    assert result.exit_code == 2
    assert "<stdin>:2:5" in result.output


def test_a_file_may_extend_its_neighbour_or_the_gallery(run: Run) -> None:
    Path("mine.obj").write_text(GOOD)
    Path("child.obj").write_text("objective child from mine\n")
    Path("mild.obj").write_text("objective mild from reinforce\n")
    assert run("check").output == "3 files checked, nothing to report\n"
    Path("child.obj").write_text("objective child from mien\n")
    assert "`mine`" in run("check").output


def test_many_findings_are_counted_not_listed(run: Run) -> None:
    bindings = "".join(f"x{k} = rewrd\n" for k in range(30))
    Path("many.obj").write_text(f"objective many\n{bindings}maximize mean[p,i,t] (pi * reward)\n")
    result = run("check", "many.obj")
    assert "... and 10 more" in result.output
    assert "30 errors in 1 file" in result.output


BIASED = """objective biased

A = (reward - mean[i] reward) / (std[i] reward + 1e-4)

maximize mean[p,i] mean[t] (A * log(pi))
"""


def test_findings_have_an_exit_code(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    result = run("check", "biased.obj")
    assert result.exit_code == 1
    assert "warning[OBJ101 length-normalisation]" in result.output
    assert result.output.endswith("2 warnings and 1 note in 1 file\n")
    notes = run("check", "biased.obj", "--select", "OBJ205")
    assert notes.exit_code == 0
    assert run("check", "biased.obj", "--select", "own-mean", "--strict").exit_code == 1
    both = run("check", "biased.obj", "--ignore", "OBJ1,std-normalisation")
    assert "1 note in 1 file" in both.output


def test_a_rule_that_is_none(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    for flag in ("--select", "--ignore"):
        result = run("check", "biased.obj", flag, "length-normalization")
        assert result.exit_code == 2
        assert "did you mean `length-normalisation`?" in result.output


def test_comments_accept_findings(run: Run) -> None:
    text = BIASED.replace("+ 1e-4)", "+ 1e-4)  # objdsl: ignore[OBJ201, own-mean] eq. 3")
    Path("a.obj").write_text("# objdsl: ignore[length-normalisation] eq. 3\n" + text)
    result = run("check", "a.obj")
    assert result.output == "1 file checked, nothing to report (3 suppressed)\n"
    child = "objective child from a\n"
    Path("child.obj").write_text(child)
    assert run("check", "child.obj").output.endswith("2 warnings and 1 note in 1 file\n")
    Path("child.obj").write_text("# objdsl: ignore[OBJ101, OBJ201, OBJ205] as `a` does\n" + child)
    assert run("check", "child.obj").exit_code == 0


def test_comments_may_be_passed_over(run: Run) -> None:
    assert run("check", "grpo").exit_code == 0
    result = run("check", "grpo", "--ignore-suppressions")
    assert result.exit_code == 1
    assert "4 warnings and 2 notes in 1 file" in result.output


def test_what_is_wrong_with_such_a_comment(run: Run) -> None:
    Path("a.obj").write_text(
        "objective a  # objdsl: ignore[lenght-normalisation] why\n"
        "# objdsl: ignore[std-normalisation] why\n"
        "A = reward  # objdsl: ignore[own-mean]\n"
        "# objdsl: ignore everything\n"
        "maximize mean[p,i] (A * sum[t] log(pi))\n"
    )
    result = run("check", "a.obj", "--output-format", "concise")
    assert result.exit_code == 1
    places = {tuple(line.split(": ")[:2]) for line in result.output.splitlines()}
    assert places == {
        ("a.obj:1:31", "warning[OBJ908 unknown-rule]"),
        ("a.obj:2:18", "warning[OBJ902 unused-suppression]"),
        ("a.obj:3:13", "warning[OBJ901 suppression-without-reason]"),
        ("a.obj:3:30", "warning[OBJ902 unused-suppression]"),
        ("a.obj:4:1", "warning[OBJ907 suppression-without-rule]"),
    }
    assert run("check", "a.obj", "--fix").exit_code == 1
    assert "std-normalisation" not in Path("a.obj").read_text()


def test_diff_changes_nothing_and_unsafe_fixes_do(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    assert run("check", "biased.obj", "--fix").exit_code == 1  # none of them is safe
    assert Path("biased.obj").read_text() == BIASED
    diff = run("check", "biased.obj", "--diff").output
    assert "-maximize mean[p,i] mean[t] (A * log(pi))\n+maximize mean[p,i] sum[t] (A" in diff
    assert Path("biased.obj").read_text() == BIASED
    result = run("check", "biased.obj", "--unsafe-fixes")
    assert result.exit_code == 0
    assert "+A = (reward - mean[i] reward)" in diff
    assert "A = (reward - mean[i] reward)\n" in Path("biased.obj").read_text()
    assert run("check", "-", "--unsafe-fixes", input=BIASED).exit_code == 2


def test_what_reads_two_ways_is_left_to_its_writer(run: Run) -> None:
    text = "objective two\nA = reward - mean[i] reward^2\nmaximize mean[p,i] (A * sum[t] log(pi))\n"
    Path("two.obj").write_text(text)
    for flags in (
        ["--fix"],
        ["--unsafe-fixes"],
        ["--unsafe-fixes", "--select", "OBJ9"],
        ["--diff"],
    ):
        assert run("check", "two.obj", *flags).exit_code == 2
        assert Path("two.obj").read_text() == text
    assert run("fmt", "two.obj").exit_code == 0
    assert Path("two.obj").read_text() == text
    (finding,) = json.loads(run("check", "two.obj", "--output-format", "json").output)["findings"]
    assert finding["fix"] is None
    assert [x["title"] for x in finding["choices"]] == [
        "`(mean[i] reward)^2`",
        "`mean[i] (reward^2)`",
    ]
    places = [[(edit["column"], edit["text"]) for edit in x["edits"]] for x in finding["choices"]]
    assert places == [[(14, "("), (28, ")")], [(22, "("), (30, ")")]]
    sarif = json.loads(run("check", "two.obj", "--output-format", "sarif").output)
    assert len(sarif["runs"][0]["results"][0]["fixes"]) == 2
    github = run("check", "two.obj", "--output-format", "github").output
    assert "`(mean[i] reward)^2` or `mean[i] (reward^2)`" in github


def test_no_fix_changes_the_mathematics(run: Run) -> None:
    for body in ("reward - mode[i] reward", "softmax[i] reward", "cumsum[t] old", "prob", "nu"):
        text = f"objective x\nA = {body}\nmaximize mean[p,i] (reward * sum[t] log(pi))\n"
        Path("x.obj").write_text(text)
        result = run("check", "x.obj", "--unsafe-fixes", "--select", "OBJ9")
        assert result.exit_code == 2 and "did you mean" not in result.output
        assert Path("x.obj").read_text() == text


def test_configuration(run: Run) -> None:
    Path("old").mkdir()
    Path("old/biased.obj").write_text(BIASED)
    Path("pyproject.toml").write_text(
        '[tool.objdsl]\nignore = ["std-normalisation"]\n'
        '[tool.objdsl.per-file-ignores]\n"old/*" = ["OBJ101"]\n'
    )
    assert run("check").exit_code == 0
    assert run("check", "--strict").exit_code == 1
    for text, message in (
        ("ignored = []", "there is no `ignored`; did you mean `ignore`?"),
        ("strict = 1", "`strict`: input should be a valid boolean"),
        ("select = [1]", "`select.0`: input should be a valid string"),
        ('per-file-ignores = {"a" = "OBJ1"}', "`per-file-ignores.a`: input should be a valid list"),
        ('select = ["OBJ777"]', "there is no rule `OBJ777`"),
        ("select = [", "pyproject.toml"),
    ):
        Path("pyproject.toml").write_text(f"[tool.objdsl]\n{text}\n")
        result = run("check")
        assert result.exit_code == 2
        assert message in result.output


def test_formats_for_programs(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    printed = run("check", "biased.obj", "grpo", "ppo", "--output-format", "json").output
    Report.model_validate_json(printed, strict=True)
    report = json.loads(run("check", "biased.obj", "--output-format", "json").output)
    assert report["summary"] == {"error": 0, "warning": 2, "note": 1, "suppressed": 0}
    first = report["findings"][0]
    assert first["location"] == {
        "file": "biased.obj", "line": 3, "column": 33, "end_line": 3, "end_column": 55,
    }  # fmt: skip
    assert first["fix"]["edits"][0]["text"] == "(reward - mean[i] reward)"
    lines = run("check", "biased.obj", "--output-format", "github").output.splitlines()
    assert lines[0].startswith(
        "::warning file=biased.obj,line=3,col=33,title=OBJ201 std-normalisation::Rewards are"
    )
    assert len(lines) == 3
    assert lines[2].startswith("::notice ")
    assert run("check", "biased.obj", "--output-format", "sarif", "-o", "a.sarif").exit_code == 1
    run_ = json.loads(Path("a.sarif").read_text())["runs"][0]
    assert [result["level"] for result in run_["results"]] == ["warning", "warning", "note"]
    rules = [rule["id"] for rule in run_["tool"]["driver"]["rules"]]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run_["results"])


def test_a_library_of_functions_is_no_mistake(run: Run) -> None:
    Path("mine.obj").write_text("def half(x) = x / 2\n")
    assert run("check").output == "1 file checked, nothing to report\n"


def test_settings(run: Run) -> None:
    """At beta = 0 there is no penalty, and the comment that accepts its bias is not reported."""
    before = run("check", "grpo", "--ignore-suppressions", "--output-format", "concise").output
    after = run(
        "check", "grpo", "--ignore-suppressions", "--output-format", "concise", "--set", "beta=0"
    ).output
    assert "forward-kl-gradient" in before
    assert set(after.splitlines()) == {
        line for line in before.splitlines() if "forward-kl-gradient" not in line
    }
    for setting, message in (
        ("epz=0.1", "did you mean 'eps'?"),
        ("eps=2", "eps = 2 is outside (0, 1)"),
        ("eps=x", "eps must be a number"),
        ("eps", "write 'eps' as NAME=X"),
    ):
        result = run("check", "grpo", "--set", setting)
        assert result.exit_code == 2
        assert message in result.output


def test_a_diff_and_a_report_do_not_mix(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    refused = run("check", "biased.obj", "--diff", "--output-format", "json")
    assert refused.exit_code == 2
    assert "use -o to name a file for the json findings" in refused.output
    result = run("check", "biased.obj", "--diff", "--output-format", "json", "-o", "found.json")
    assert result.exit_code == 1
    assert result.stdout.startswith("--- biased.obj\n+++ biased.obj\n")
    assert result.stderr.startswith("2 fixes would be applied\n")
    assert len(json.loads(Path("found.json").read_text())["findings"]) == 3
    assert run("check", "biased.obj", "--diff", "--fix").stdout == ""
    assert Path("biased.obj").read_text() == BIASED


def test_a_fix_in_the_base_is_not_made_in_the_file(run: Run) -> None:
    Path("base.obj").write_text(BIASED.replace("biased", "base"))
    Path("child.obj").write_text("objective child from base\n")
    shown = run("check", "child.obj").output
    assert " --> base.obj:5:20\n" in shown
    assert (
        "1 | objective child from base\n  |                      ---- inherited from here\n"
        in shown
    )
    result = run("check", "child.obj", "--diff")
    assert result.stdout == ""
    assert result.stderr == "0 fixes would be applied; more are in base.obj\n"
    assert run("check", "child.obj", "--unsafe-fixes").exit_code == 1
    assert Path("base.obj").read_text() == BIASED.replace("biased", "base")


def test_spelling_is_mended_and_written_if_that_is_enough(run: Run) -> None:
    misspelt = GOOD.replace("reward", "rewrd").replace("log", "lgo")
    Path("a.obj").write_text(misspelt)
    diff = run("check", "a.obj", "--diff")
    assert diff.exit_code == 2
    assert "+maximize mean[p,i] (reward * sum[t] log(pi))\n" in diff.stdout
    assert run("check", "a.obj", "--unsafe-fixes").exit_code == 0
    assert Path("a.obj").read_text() == GOOD
    hopeless = misspelt + "report x = mean[t] reward\n"
    Path("a.obj").write_text(hopeless)
    assert (
        "+maximize mean[p,i] (reward * sum[t] log(pi))\n" in run("check", "a.obj", "--diff").stdout
    )
    result = run("check", "a.obj", "--unsafe-fixes")
    assert result.exit_code == 2
    assert "3 errors in 1 file" in result.output
    assert Path("a.obj").read_text() == hopeless


def test_fixes_are_counted(run: Run) -> None:
    Path("a.obj").write_text(
        "objective a  # objdsl: ignore[own-mean] none\n" + GOOD.partition("\n")[2]
    )
    result = run("check", "a.obj", "--fix")
    assert result.output == "1 file checked, nothing to report (1 fixed)\n"
    assert Path("a.obj").read_text() == GOOD.replace("good", "a")


def test_what_cannot_be_written_is_said(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    result = run("check", "biased.obj", "-o", "missing/found.txt")
    assert result.exit_code == 2
    assert "cannot write missing/found.txt" in result.output
    assert run("check", "biased.obj", "-o", "found.txt").exit_code == 1
    assert Path("found.txt").read_text().endswith("\n2 warnings and 1 note in 1 file\n")


def test_each_file_has_the_configuration_of_its_own_project(run: Run) -> None:
    for name, table in (("mine", 'ignore = ["OBJ1", "OBJ2"]'), ("theirs", "strict = true")):
        Path(name).mkdir()
        Path(f"{name}/biased.obj").write_text(BIASED)
        Path(f"{name}/pyproject.toml").write_text(f"[tool.objdsl]\n{table}\n")
    assert run("check", "mine").exit_code == 0
    assert run("check", "theirs", "--select", "own-mean").exit_code == 1
    # Who names a rule on the command line wants to see it.
    assert "OBJ205" in run("check", "mine", "--select", "own-mean").output


def test_a_table_in_another_spelling(run: Run) -> None:
    Path("biased.obj").write_text(BIASED)
    for text in ('[tool]\nobjdsl = {ignore = ["OBJ"]}', '["tool"."objdsl"]\nignore = ["OBJ"]'):
        Path("pyproject.toml").write_text(text)
        assert run("check").exit_code == 0
    Path("pyproject.toml").write_text("[tool]\nobjdsl = 3\n")
    assert run("check").exit_code == 2


def test_a_text_that_is_too_deep_is_no_traceback(run: Run) -> None:
    chain = "".join(f"x{k} = x{k + 1} * sg(x{k + 1})\n" for k in range(1000))
    Path("deep.obj").write_text(
        f"objective deep\n{chain}x1000 = pi / old\nmaximize mean[p,i,t] (reward * x0)\n"
    )
    result = run("check", "deep.obj")
    assert result.exit_code == 2
    assert "error[OBJ905 nested-too-deeply]" in result.output


def test_the_hooks_of_pre_commit_are_commands() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert {hook["id"] for hook in hooks} == {"objdsl-check", "objdsl-fmt"}
    for hook in hooks:
        program, command = hook["entry"].split()
        assert (program, command in main.list_commands(click.Context(main))) == ("objdsl", True)
        assert re.search(hook["files"], "mine/grpo.obj")
