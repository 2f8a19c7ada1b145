"""Many files are shared out, and nobody can see it but by the clock.

A process of tests has threads, and is not forked: what is to fork runs in one of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from objdsl import gallery
from objdsl.cli.parallel import parallel

from .conftest import Run

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes a fork well")

_TWO = """
import os, sys
from objdsl.cli import parallel as module
module._cores = lambda: 2
"""


def _with_two_cores(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _TWO + program, *arguments],
        capture_output=True, encoding="utf-8", check=False, timeout=600,
    )  # fmt: skip


@linux
def test_shared_out_and_in_order() -> None:
    made = _with_two_cores("""
import multiprocessing
both, begun = multiprocessing.Barrier(2), set()
open_before = len(os.listdir("/proc/self/fd"))
def work(item):
    if os.getpid() not in begun:  # nobody does all before the other has begun
        begun.add(os.getpid())
        both.wait(300)
    return item, os.getpid()
made = module.parallel(work, range(3000)[::60])
assert [item for item, _ in made] == list(range(3000)[::60])
assert len({process for _, process in made}) == 2
assert os.getpid() in {process for _, process in made}
few = module.parallel(work, range(5))
assert {process for _, process in few} == {os.getpid()}
assert module.parallel(work, []) == []
assert module.parallel(str, range(5000)) == [str(k) for k in range(5000)]
try: os.wait()
except ChildProcessError: pass
else: sys.exit("a process was left behind")
assert len(os.listdir("/proc/self/fd")) == open_before
""")
    assert made.returncode == 0, made.stderr


@linux
def test_what_is_raised_there_is_raised_here() -> None:
    made = _with_two_cores("""
import click
def work(item):
    if item == 20: raise click.UsageError("not 20")
try: module.parallel(work, range(40))
except click.UsageError as error: assert error.message == "not 20"
else: sys.exit("nothing was raised")
""")
    assert made.returncode == 0, made.stderr


@linux
def test_what_a_killed_process_leaves_is_done_here() -> None:
    made = _with_two_cores("""
import signal, time
here = os.getpid()
def work(item):
    time.sleep(0.01)
    if os.getpid() != here and item > 10: os.kill(os.getpid(), signal.SIGKILL)
    return item
assert module.parallel(work, range(40)) == list(range(40))
def unpickled(item): return lambda: item
assert [made() for made in module.parallel(unpickled, range(40))] == list(range(40))
""")
    assert (made.returncode, made.stderr) == (0, "")


@linux
@pytest.mark.parametrize("format_", ["concise", "json"])
def test_the_output_is_the_same(run: Run, format_: str) -> None:
    names = ("--ignore-suppressions", "--output-format", format_, *gallery.names())
    shared = _with_two_cores("from objdsl.cli.app import main\nmain()\n", "check", *names)
    alone = run("check", *names)
    assert (shared.stdout, shared.returncode) == (alone.stdout, alone.exit_code)
    assert alone.exit_code == 1


def test_a_process_with_threads_does_the_work_itself() -> None:
    assert parallel(str, range(100)) == [str(k) for k in range(100)]
