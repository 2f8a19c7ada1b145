"""The work of a command grows with the text: calls are counted, so that no clock decides."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from helpers.samples import thinned
from objdsl import driver, loads
from objdsl.analysis.algebra import sums
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient import advantage, bonuses
from objdsl.analysis.values import extremes
from objdsl.diagnostic import Diagnostic
from objdsl.elaborate import context
from objdsl.emit import lower
from objdsl.errors import ObjectiveError
from objdsl.ir import build, layout
from objdsl.ir.diff import diff
from objdsl.lint import places
from objdsl.objectives import gallery
from objdsl.render.terminal import render
from objdsl.source import Source
from objdsl.syntax.format import format as formatted
from objdsl.syntax.parse import lark_tree, parse

COLUMNS = "given a[p,i,t]\ngiven b[p,i,t]\n"
TOKENS = {
    "sums and products": "{} * a + b",
    "other factors": "{} * reward + log(pi)",
    "squares": "{0} * {0} + reward",
    "quotients": "{} / (1 + abs(a)) + log(pi)",
    "live quotients": "{0} / (1 + {0} * {0})",
    "doublings": "{0} + {0}",
    "products of itself": "{0} * {0}",
    "stopped products": "{0} * sg({0})",
    "stopped and not": "sg({0}) * log(pi) + {0}",
    "minima": "min({}, reward * log(pi))",
    "extrema": "max(min({0}, 0.5 * {0}), a) * reward",
    "choices": "{} * reward if reward > a else log(pi)",
    "clips": "clip({}, 0.8, 1.2) + log(pi)",
    "sums over tokens": "0.5 * sum[s >= t] {} + log(pi)",
    "means": "{0} - mean[t] {0}",
    "functions": "sigmoid({}) + log(pi)",
}
"""Definitions that each use the one before."""


def chain(step: str, n: int) -> str:
    steps = "".join(f"x{k + 1} = {step.format(f'x{k}')}\n" for k in range(n))
    start = f"objective long\n{COLUMNS}x0 = pi / old\n"
    return f"{start}{steps}maximize mean[p,i,t] (x{n} * log(pi))\n"


def responses(n: int) -> str:
    steps = "".join(f"x{k + 1} = x{k} + x{k} * 2\n" for k in range(n))
    start = "objective long\nx0 = mean[t] log(pi)\n"
    return f"{start}{steps}maximize mean[p,i] (x{n} * reward)\n"


def many(declared: str, term: str, n: int) -> str:
    columns = "".join(declared.format(k) + "\n" for k in range(n))
    sums = "".join(f"s{k + 1} = s{k} + {term.format(k)}\n" for k in range(n))
    start = f"objective wide\n{columns}s0 = reward * log(pi)\n"
    return f"{start}{sums}maximize mean[p,i,t] s{n}\n"


def lines(line: str, n: int) -> str:
    every = "".join(line.format(k) + "\n" for k in range(n))
    return f"objective wide\n{every}maximize mean[p,i,t] (reward * log(pi))\n"


FORMULAS: dict[str, Callable[[int], str]] = {
    **{name: lambda n, step=step: chain(step, n) for name, step in TOKENS.items()},
    "responses": responses,
    "parameters": lambda n: many("param a{} = 0.5", "a{} * reward * log(pi)", n),
    "columns": lambda n: many("given a{}[p,i]", "a{} * log(pi)", n),
    "deviations": lambda n: many("given a{}[p,i]", "a{0} / std[i] a{0} * log(pi)", n),
    "clipped": lambda n: many("param a{} = 0.1", "clip(pi / old, a{}, 2) * reward", n),
}
TEXTS = {
    "unused parameters": "param a{} = 0.5 in (0, 1)",
    "unused columns": "given a{}[p,i]",
    "unused definitions": "a{0} = reward + {0}",
    "reports": "report a{0} = mean[p,i] (reward + {0})",
    "comments": "# line {}",
    "suppressions": "# objdsl: ignore[length-normalisation] for reason {}",
    "accepted findings": "report a{} = mean[p,i] (1 / 0)  # objdsl: ignore[own-mean] why",
    "policies": "policy q{}",
    "unknown names": "a{0} = nothing{0} + 1",
    "wrong indices": "a{} = mean[t] reward",
    "wrong syntax": "a{} = + * 1",
}
"""Lines that may be repeated."""


def explained(source: Source) -> None:
    list(sections(Facts(driver.compile_source(source))))


def compared(source: Source) -> None:
    other = Source("other.obj", source.text.replace("reward", "(reward - 1)"))
    diff(driver.compile_source(source), driver.compile_source(other))


COMMANDS: dict[str, Callable[[Source], object]] = {
    "fmt": lambda source: formatted(parse(source)),
    "explain": explained,
    "diff": compared,
    "formula": lambda source: driver.mathematics(driver.compile_source(source), weights=True),
    "latex": lambda source: driver.mathematics(driver.compile_source(source), latex=True),
    "torch": lambda source: driver.torch_source(driver.compile_source(source)),
}


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers all limits, so that short texts exceed them."""
    for module, name, most in (
        (build, "_MOST_FACTORS", 8),
        (sums, "_MOST_TERMS", 8),
        (sums, "_MOST_FACTORS", 6),
        (extremes, "_MOST_MASKS", 2),
        (places, "_MOST_BRANCHES", 20),
        (advantage, "_MOST_LIVE", 1),
        (bonuses, "_MOST_TERMS", 1),
        (lower, "_MOST_TERMS", 8),
        (layout, "_MOST_PARTS", 1),
        (context, "MAX_ERRORS", 8),
    ):
        monkeypatch.setattr(module, name, most)


def calls(run: Callable[[Source], object], text: str) -> int:
    """The number of functions that a command calls, for a text that it has not seen."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    source = Source("grown.obj", text)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run(source)
    except ObjectiveError:
        pass
    finally:
        sys.setprofile(before)
    return count


def grows_with_the_text(run: Callable[[Source], object], family: Callable[[int], str]) -> bool:
    calls(run, family(3))  # what is done once
    small, large = (calls(run, family(n)) for n in (12, 36))
    return large < 3.6 * small


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("name", FORMULAS)
def test_a_check_grows_with_the_formula(name: str) -> None:
    assert grows_with_the_text(driver.check, FORMULAS[name])


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("name", thinned(FORMULAS, 3))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_grows_with_the_formula(name: str, command: str) -> None:
    assert grows_with_the_text(COMMANDS[command], FORMULAS[name])


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("name", TEXTS)
def test_a_check_grows_with_the_text(name: str) -> None:
    assert grows_with_the_text(driver.check, lambda n: lines(TEXTS[name], n))


NAMES: dict[str, Callable[[int], str]] = {
    "a known rule, again and again": lambda n: "# objdsl: ignore[" + "own-mean," * n + "] why\n",
    "names that are no rules": lambda n: (
        "# objdsl: ignore[" + ",".join(f"rule{k}" for k in range(n)) + "] why\n"
    ),
    "instructions in one comment": lambda n: "#" + " # objdsl: ignore[own-mean] why" * n + "\n",
    "instructions that say nothing": lambda n: "#" + " # objdsl:" * n + "\n",
}
"""What may be written in front of an objective, for comments that accept findings."""


def instructions(run: Callable[[], object]) -> int:
    """The number of bytecode instructions: building a list is a single call, however long."""
    count = 0

    def step(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", NAMES)
def test_findings_about_comments_are_read_and_printed_once(name: str) -> None:
    def steps(n: int) -> tuple[int, int]:
        source = Source("grown.obj", NAMES[name](n) + lines("# {}", 1))
        findings: list[Diagnostic] = []
        read = instructions(lambda: findings.extend(driver.check(source).findings))
        return read, instructions(lambda: [render(finding) for finding in findings])

    steps(3)  # what is done once
    small, large = steps(100), steps(400)
    assert all(large[k] < 4.8 * small[k] for k in (0, 1))


def test_the_count_sees_what_grows_faster() -> None:
    def twice(source: Source) -> None:
        for _ in source.text.splitlines():
            [line.strip() for line in source.text.splitlines()]

    assert not grows_with_the_text(twice, lambda n: lines("# {}", n))


def test_what_the_gallery_takes() -> None:
    """For an entry, what a core does in some 30 ms: a check of the whole gallery is to stay
    something that nobody waits for. Counting takes longer: of every third entry."""
    lark_tree.cache_clear()
    texts = [gallery.bundled(name).text for name in gallery.names()[::3]]
    calls(driver.check, texts[0])  # what is done once
    assert sum(calls(driver.check, text) for text in texts) < 70_000 * len(texts)


@pytest.mark.parametrize("step", ["{0} + {0}", "{} * a + b", "min({}, reward * log(pi))"])
def test_a_thousand_definitions_deep(step: str) -> None:
    text = chain(step, 1000)
    checked = driver.check(Source("deep.obj", text))
    assert checked.objective is not None
    assert "x1000" in loads(text).source()
    for clone in (copy.deepcopy(checked.objective), pickle.loads(pickle.dumps(checked.objective))):
        assert clone == checked.objective
