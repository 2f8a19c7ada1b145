"""What a person reads who mistyped: every syntax error at once, each with a place and a way out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from objdsl.diagnostic import ObjectiveError
from objdsl.render.terminal import render
from objdsl.source import Source
from objdsl.syntax.parse import parse
from objdsl.syntax.read import read

BROKEN = {
    "missing operand": "A = reward +",
    "missing value": "A =",
    "trailing comma": "A = min(reward, )",
    "missing bracket": "A = (reward + 1",
    "missing bracket, then a statement": "A = (reward + 1\nmaximize mean[p,i] A",
    "extra bracket": "A = reward + 1)",
    "wrong bracket": "A = mean(i] reward",
    "equality": "maximize mean[p,i] (reward = 1)",
    "power": "A = reward ** 2",
    "and": "A = reward > 0 && reward < 1",
    "or": "A = reward > 0 || reward < 1",
    "not": "A = !truncated",
    "chain": "A = 0 < reward < 1",
    "semicolon": "A = reward; B = 2",
    "named argument": "A = clip(reward, lo=0, hi=1)",
    "python": "import torch",
    "statement": "maximise mean[p,i] reward",
    "keyword as name": "from = 3",
    "no number": "param eps = big",
    "domain": "param eps = 0.2 in (0 1)",
    "empty brackets": "A = mean[] reward",
    "no bracket": "A = mean t reward",
    "unfinished conditional": "A = reward if truncated",
    "length": "A = reward / |x|",
    "strange character": "A = reward @ 2",
    "string": 'A = "reward"',
    "several": "A = reward +\nmaximise A\nB = (1",
}


def diagnostics(text: str) -> str:
    with pytest.raises(ObjectiveError) as error:
        parse(Source("file.obj", text + "\n"))
    assert all(d.span is not None for d in error.value.diagnostics)
    return "\n".join(render(d) for d in error.value.diagnostics)


def test_messages(golden: Callable[[str, str], None]) -> None:
    shown = [f"# {title}\n\n{text}\n\n{diagnostics(text)}" for title, text in BROKEN.items()]
    golden("syntax/errors.txt", "\n\n".join(shown) + "\n")


def test_all_errors_of_a_text_are_reported_at_once() -> None:
    with pytest.raises(ObjectiveError) as error:
        parse(Source("file.obj", BROKEN["several"]))
    lines = [d.span.line for d in error.value.diagnostics if d.span]
    assert lines == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00", r"object code \(ELF\)"),
        (b"\x64\x86\x02\x00\x00\x00", r"object code \(COFF for x86-64\)"),
        (b"a = 1\x00\x00\xff", "binary data|not UTF-8|UTF-8"),
        (b"v 1.0 2.0 3.0\nv 0 0 1\nf 1 2 3\n", "3-D model"),
        (b"# Blender\nmtllib cube.mtl\n", "3-D model"),
        (b"\xff\xfeo\x00b\x00", "UTF-16"),
        (b"A = \xe9\n", "UTF-8"),
        (b"", "empty|holds no objective|no statement"),
        (b"# only a comment\n", "empty|holds no objective|no statement"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.obj"
    path.write_bytes(content)
    with pytest.raises(ObjectiveError, match=message) as error:
        parse(read(path))
    assert len(error.value.diagnostics) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = " + "(" * 10_000 + "1" + ")" * 10_000, "nests deeper than 200 levels"),
        ("A = " + "[" * 10_000, "nests deeper"),
        ("A = " + "-" * 10_000 + "1", "nests deeper"),
        ("A = " + " + ".join(["1"] * 3_000), "nests deeper"),
        ("A = " + " + ".join(["1"] * 100_000), "KiB"),
        ("A = 1\n" * 2_000_000, "256 KiB"),
        ("x" * 10_000_000, "256 KiB"),
        ("(" * 200_000, "nests deeper|never closed"),
        ("A = )\n" * 40_000, "`\\)`"),
    ],
    ids=[
        "round",
        "square",
        "minus",
        "sum",
        "long sum",
        "10 MB",
        "10 MB name",
        "open",
        "many errors",
    ],
)
def test_hostile_texts_end_quickly_with_a_message(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ObjectiveError, match=message) as error:
        parse(Source("x.obj", text))
    assert len(error.value.diagnostics) <= 100
    assert time.process_time() - start < 5  # not a benchmark: the bound is on hanging
