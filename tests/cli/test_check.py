from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from objdsl import gallery

Run = Callable[..., Result]
GOOD = "objective good\nmaximize mean[p,i] (reward * sum[t] log(pi))\n"
BAD = "objective bad\nA = rewrd\nB = mean[t] reward\nC = log(odl)\nmaximize mean[p,i,t] (A * pi)\n"


def test_the_whole_gallery_is_clean(run: Run) -> None:
    result = run("check", *gallery.names())
    assert result.output == f"{len(gallery.names())} files checked, nothing to report\n"
    assert result.exit_code == 0


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
    Path("mild.obj").write_text("objective mild from grpo\nparam eps = 0.1 in (0, 1)\n")
    assert run("check").output == "3 files checked, nothing to report\n"
    Path("child.obj").write_text("objective child from mien\n")
    assert "`mine`" in run("check").output


def test_many_findings_are_counted_not_listed(run: Run) -> None:
    bindings = "".join(f"x{k} = rewrd\n" for k in range(30))
    Path("many.obj").write_text(f"objective many\n{bindings}maximize mean[p,i,t] (pi * reward)\n")
    result = run("check", "many.obj")
    assert "... and 10 more" in result.output
    assert "30 errors in 1 file" in result.output
