"""Whatever happens while a file is written, the old one stays, and no other file is left beside
it."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from objdsl.cli.app import main
from objdsl.files import replace_bytes, replace_text

OLD = "objective  a\nmaximize   mean[p,i] (reward * sum[t] log(pi))\n"
FIXABLE = (
    "objective a  # objdsl: ignore[own-mean] none\n"
    "A = reward - mean[j != i] reward\n"
    "maximize mean[p,i] (A * sum[t] log(pi))\n"
)

# What each command that writes a user's file is told, and what stands there before.
COMMANDS = {
    "fmt": (["fmt", "a.obj"], OLD),
    "check --fix": (["check", "--fix", "a.obj"], FIXABLE),
    "check -o": (["check", "grpo", "-o", "a.obj"], "old findings\n"),
    "compile -o": (["compile", "grpo", "-o", "a.obj"], "old source\n"),
    "gallery cp": (["gallery", "cp", "grpo", "a.obj", "--force"], "old objective\n"),
}


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_full_disk_leaves_the_old_file(
    command: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, old = COMMANDS[command]
    Path("a.obj").write_text(old)
    monkeypatch.setattr(os, step, full_disk)
    result = CliRunner().invoke(main, arguments, prog_name="objdsl")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "cannot write a.obj: no space left on device; it is left as it was" in result.output
    assert Path("a.obj").read_text() == old
    assert os.listdir() == ["a.obj"]


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
from objdsl.cli.app import main
sys.argv = ["objdsl", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("command", ["fmt", "compile -o"])
def test_a_limit_on_the_size_of_files_leaves_the_old_file(command: str, tmp_path: Path) -> None:
    arguments, old = COMMANDS[command]
    file = tmp_path / "a.obj"
    file.write_text(old)
    result = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, *arguments],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "cannot write a.obj: file too large" in result.stderr
    assert file.read_text() == old
    assert os.listdir(tmp_path) == ["a.obj"]


KILLED = """
import os, sys
from objdsl.files import replace_text
def die(*_): os.kill(os.getpid(), 9)
setattr(os, sys.argv[2], die)
replace_text(sys.argv[1], "new")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_kill_leaves_the_old_file(step: str, tmp_path: Path) -> None:
    file = tmp_path / "a.obj"
    file.write_text("old")
    result = subprocess.run([sys.executable, "-c", KILLED, file, step])
    assert result.returncode == -signal.SIGKILL
    assert file.read_text() == "old"


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    replace_text(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    replace_text(tmp_path / "new", "text\n")
    assert (tmp_path / "new").read_bytes() == b"text\n"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="everything is writable for root"
)
@pytest.mark.parametrize("protect", [lambda file: file, lambda file: file.parent])
def test_what_is_read_only_stays(protect: Callable[[Path], Path], tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    protect(file).chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            replace_text(file, "new")
    finally:
        protect(file).chmod(0o755)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        replace_bytes(tmp_path, b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("command", [["check", "."], ["check", "x.obj"], ["fmt", "."]])
def test_a_named_pipe_is_refused_and_not_waited_for(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("x.obj")
    result = CliRunner().invoke(main, command, prog_name="objdsl")
    assert result.exit_code == 2
    assert "`x.obj` cannot be read: it is a named pipe" in result.output


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no such device")
def test_a_device_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "x.obj"
    link.symlink_to("/dev/zero")
    result = CliRunner().invoke(main, ["check", str(link)], prog_name="objdsl")
    assert result.exit_code == 2
    assert "it is a device" in result.output
