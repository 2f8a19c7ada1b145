"""`objdsl gallery`: the objectives that are included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from objdsl.errors import ObjectiveError
from objdsl.objectives import gallery
from objdsl.source import Source, Span

Run = Callable[..., Result]


def test_ls_names_every_objective_and_its_paper_by_group(run: Run) -> None:
    lines = run("gallery").output.splitlines()
    groups = [line.rstrip(":") for line in lines if not line.startswith("  ")]
    assert groups == list(gallery.GROUPS)
    entries = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(entries) == sorted(gallery.names())
    at = {line.split()[0]: i for i, line in enumerate(lines)}
    assert lines[at["grpo"]].count("arXiv:2402.03300") == 1
    assert at["clipped:"] < at["grpo"] < at["sequence-level:"] < at["gspo"] < at["KL:"]
    assert run("gallery", "ls").output.splitlines() == lines


def test_show_prints_the_file(run: Run) -> None:
    assert run("gallery", "show", "grpo").output == gallery.bundled("grpo").text
    assert "def " in run("gallery", "show", "std").output


def test_cp_writes_a_file_that_checks(run: Run) -> None:
    assert run("gallery", "cp", "grpo").output == "wrote grpo.obj\n"
    assert Path("grpo.obj").read_text() == gallery.bundled("grpo").text
    assert run("check", "grpo.obj").exit_code == 0
    again = run("gallery", "cp", "grpo")
    assert again.exit_code == 2
    assert "--force" in again.output
    assert run("gallery", "cp", "grpo", "--force").exit_code == 0
    Path("mine").mkdir()
    assert run("gallery", "cp", "grpo", "mine").output == f"wrote {Path('mine/grpo.obj')}\n"


def test_a_copy_finds_a_base_of_the_frameworks(run: Run) -> None:
    run("gallery", "cp", "frameworks/trl_grpo_vllm", "mine.obj")
    assert "from trl_grpo\n" in Path("mine.obj").read_text()
    assert run("check", "mine.obj").exit_code == 0


@pytest.mark.parametrize(
    "command", [["gallery", "cp", "grpo", "none/"], ["compile", "grpo", "-o", "none/grpo.py"]]
)
def test_where_nothing_can_be_written_is_a_usage_error(run: Run, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert f"cannot write {Path('none')}" in result.output


def test_an_unknown_name_is_a_usage_error(run: Run) -> None:
    result = run("gallery", "show", "dapoo")
    assert result.exit_code == 2
    assert "did you mean `dapo`?" in result.output


def test_find_prefers_a_path_that_looks_like_one(tmp_path: Path) -> None:
    file = tmp_path / "grpo.obj"
    file.write_text("objective mine\n")
    assert gallery.find(file).text == "objective mine\n"
    assert gallery.find("grpo") is gallery.bundled("grpo")
    with pytest.raises(ObjectiveError):
        gallery.find(tmp_path / "none.obj")
    with pytest.raises(FileNotFoundError, match="did you mean `dapo`"):
        gallery.find("dapoo")


def test_the_gallery_extends_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the user's folder must not change what a bundled objective means."""
    monkeypatch.chdir(tmp_path)
    Path("grpo.obj").write_text("objective grpo\n")
    bundled = gallery.bundled("dr_grpo")
    assert gallery.base("grpo", Span(bundled, 0, 1)) is gallery.bundled("grpo")
    mine = Source("mine.obj", "objective mine from grpo")
    assert gallery.base("grpo", Span(mine, 0, 1)).text == "objective grpo\n"
