"""`objdsl fmt`: the layout of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from objdsl.objectives import gallery

Run = Callable[..., Result]
LOOSE = "objective o\nmaximize   mean[p,i,t](reward*pi)   # why\n"
NEAT = "objective o\nmaximize mean[p,i,t] (reward * pi)  # why\n"
BAD = "objective o\nmaximize )\n"


def test_it_rewrites_files_in_place(run: Run) -> None:
    Path("a.obj").write_text(LOOSE)
    Path("b.obj").write_text(NEAT)
    result = run("fmt")
    assert result.exit_code == 0
    assert "1 file reformatted, 1 left as it is" in result.output
    assert Path("a.obj").read_text() == Path("b.obj").read_text() == NEAT


def test_check_and_diff_change_nothing(run: Run) -> None:
    Path("a.obj").write_text(LOOSE)
    result = run("fmt", "--check", "a.obj")
    assert result.exit_code == 1
    assert "would reformat a.obj" in result.output
    result = run("fmt", "--diff", "a.obj")
    assert result.exit_code == 1
    assert "-maximize   mean[p,i,t](reward*pi)   # why\n+maximize mean" in result.output
    assert Path("a.obj").read_text() == LOOSE
    Path("a.obj").write_text(NEAT)
    assert run("fmt", "--check").exit_code == 0
    assert run("fmt", "--diff", "a.obj").exit_code == 0


def test_standard_input_goes_to_standard_output(run: Run) -> None:
    result = run("fmt", "-", input=LOOSE)
    assert (result.exit_code, result.output) == (0, NEAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02", "object code (ELF)"),
        (b"A = \xe9\n", "is not valid UTF-8"),
        (b"A = 1\n" * 100_000, "larger than 256 KiB"),
        (b"", "contains no statement"),
    ],
    ids=["object code", "Latin-1", "large", "empty"],
)
def test_standard_input_is_read_as_a_file_is(run: Run, content: bytes, message: str) -> None:
    result = run("fmt", "-", input=content)
    assert result.exit_code == 2
    assert message in result.output


def test_lines_may_end_as_on_windows(run: Run) -> None:
    for text in ("\ufeff" + LOOSE, LOOSE.replace("\n", "\r\n")):
        assert run("fmt", "-", input=text.encode()).output == NEAT


def test_a_file_with_errors_stays_and_the_others_are_done(run: Run) -> None:
    Path("a.obj").write_text(BAD)
    Path("b.obj").write_text(LOOSE)
    result = run("fmt")
    assert result.exit_code == 2
    assert "a.obj:2:10" in result.output
    assert Path("a.obj").read_text() == BAD
    assert Path("b.obj").read_text() == NEAT


def test_a_name_of_the_gallery_is_no_file(run: Run) -> None:
    assert run("fmt", "grpo").exit_code == 2
    assert not Path("grpo").exists()


def test_the_gallery_is_laid_out_as_fmt_does(run: Run) -> None:
    folder = Path(__file__).parents[2] / "objectives"
    result = run("fmt", "--check", str(folder))
    assert result.exit_code == 0, result.output
    assert f"{len(gallery.names()) + 1} left as they are" in result.output
