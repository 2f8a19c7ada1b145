"""Random products after reductions: a text is accepted only if all its readings have the same
value."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.random_objectives import data
from objdsl import driver
from objdsl.ir.evaluate import evaluate
from objdsl.lint.fixes import fixed
from objdsl.source import Source

PREAMBLE = """\
param eps = 0.2
given difficulty[p]
given margin[p,i]
def twice(x) = 2 * x
def weighed(x, w) = {definition}
spread = 1 + abs(margin)
"""
# By the indices that they carry; none is 0 on random data, so that all may divide.
ATOMS = {
    "": ["0.5", "eps", "twice(eps)"],
    "p": ["difficulty", "(1 + mean[i] (reward^2))", "twice(difficulty)"],
    "pi": ["margin", "|y|", "spread", "(margin - difficulty)", "twice(margin)"],
    "pit": ["old", "t", "log(old)", "(pi / old)", "(margin * old)", "k3(ref, old)"],
}
REDUCTIONS = {
    "p": ["sum[p]", "mean[p]", "max[p]"],
    "pi": ["sum[i]", "mean[i]", "mean[p,i]", "sum[i | margin > 0]", "mean[j != i]", "pstd[i]"],
    "pit": [
        "sum[t]", "mean[t]", "mean[t | t > 1]", "mean[p,i,t]", "sum[i,t]", "sum[s >= t]",
        "mean[s <= t]", "prod[t]", "max[t]", "mean[i] sum[t]", "mean[p] mean[i] mean[t]",
        "mean[p] max[i] mean[t]", "mean[p,i] sum[t]",
    ],
}  # fmt: skip
BEFORE = ["", "", "-", "margin * ", "margin / ", "2^", "eps + ", "2 * margin * ", "margin * -"]


@st.composite
def products(draw: Any) -> tuple[str, str, list[tuple[str, str]], str]:
    """The text before a reduction, the reduction, its operand, and the text after it."""
    level = draw(st.sampled_from(list(REDUCTIONS)))
    atoms = [atom for some in ATOMS.values() for atom in some]
    follower = st.tuples(st.sampled_from(["*", "*", "*", "/", "/", "^"]), st.sampled_from(atoms))
    followers = draw(st.lists(follower, min_size=1, max_size=3))
    operand = draw(st.sampled_from(ATOMS[level]))
    reduction = draw(st.sampled_from(REDUCTIONS[level]))
    if "[s" in reduction and operand == "t":
        operand = "s"
    return draw(st.sampled_from(BEFORE)), f"{reduction} ", followers, operand


def texts(before: str, reduction: str, followers: list[tuple[str, str]], operand: str) -> list[str]:
    """The text without brackets, and every place where the operand of the reduction may end."""
    behind = [f" {op} {atom}" for op, atom in followers]
    readings = [f"{before}{reduction}{operand}{''.join(behind)}"]
    for end in range(len(behind) + 1):
        if 0 < end < len(behind) and followers[end][0] == "^":
            continue  # a power belongs to the factor before it, not to the product
        inside, outside = "".join(behind[:end]), "".join(behind[end:])
        readings.append(f"{before}({reduction}({operand}{inside})){outside}")
    return readings


def objective(text: str, definition: str = "x * w") -> Source:
    """A file that reports a number which depends on the text."""
    lines = PREAMBLE.format(definition=definition)
    lines += f"report found = sum[p,i,t] (({text}) + 0 * t)\nmaximize mean[p,i,t] log(pi)\n"
    return Source("random.obj", lines)


def called(bare: str, pieces: tuple[str, str, list[tuple[str, str]], str]) -> Source:
    """The same text as the body of a function whose arguments are its operand and its last
    factor."""
    before, reduction, followers, operand = pieces
    if "[s" in reduction:  # the operand has a different position there
        return objective("weighed(0, 0)", bare)
    *some, (op, last) = followers
    body, *_ = texts(before, reduction, [*some, (op, "w")], "x")
    return objective(f"weighed({operand}, {last})", body)


def number(source: Source, seed: int) -> float | None:
    """The interpreter's value; None if the text is refused."""
    checked = driver.check(source)
    if checked.objective is None:
        return None
    with np.errstate(all="ignore"):
        report = next(report for report in checked.objective.reports if report.name == "found")
        return float(evaluate([report.value], data(seed, 2).batch, {"eps": 0.2})[0])


def same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return False
    return (np.isnan(a) and np.isnan(b)) or bool(np.isclose(a, b, rtol=1e-9, atol=1e-12))


def test_a_text_is_taken_only_if_its_readings_are_one_value() -> None:
    """One test draws and counts: the tests of a module may run in different processes."""
    counts: Counter[str] = Counter()

    @settings(
        deadline=None, derandomize=True, max_examples=200, suppress_health_check=list(HealthCheck)
    )
    @given(products(), st.integers(0, 10_000))
    def draw(pieces: tuple[str, str, list[tuple[str, str]], str], seed: int) -> None:
        counts[outcome(pieces, seed)] += 1

    draw()
    assert counts["taken"] >= 20 and counts["two-readings"] >= 60, counts


def outcome(pieces: tuple[str, str, list[tuple[str, str]], str], seed: int) -> str:
    """Compare a text with its readings; "taken", or the name of the finding that refuses it."""
    bare, *bracketed = texts(*pieces)
    checked = driver.check(objective(bare))
    assert (driver.check(called(bare, pieces)).objective is None) == (checked.objective is None)
    if checked.objective is not None:
        values = [number(objective(text), seed) for text in (bare, *bracketed)]
        assert all(same(value, values[0]) for value in values), (bare, values)
        return "taken"
    first = checked.findings[0]
    if first.name == "two-readings":
        assert first.fix is None and len(first.choices) >= 2
        for choice in first.choices:
            text, _ = fixed(checked.source, [replace(first, fix=choice)], unsafe=True)
            ends = [x for x in driver.check(text).findings if x.name == first.name]
            assert not ends, text.text
    return first.name
