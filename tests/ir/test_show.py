"""Formulas as people read them say exactly what is computed."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from objdsl import driver
from objdsl.ir.diff import diff
from objdsl.ir.indices import decimal
from objdsl.ir.objective import Objective
from objdsl.source import Source


def objective(text: str) -> Objective:
    return driver.compile_source(Source("x.obj", f"objective x\n{text}\n"))


@given(st.floats(allow_nan=False))
def test_a_number_is_written_in_digits_that_are_it(x: float) -> None:
    assert float(decimal(x)) == x


def test_numbers_that_differ_are_shown_to_differ() -> None:
    texts = [
        f"param a = {x}\nparam b = 1 in [0, {x}]\n"
        f"maximize mean[p,i,t] (a * b * (reward + {x}) * log(pi))"
        for x in ("1.2345678", "1.2345679")
    ]
    changes = diff(*map(objective, texts))
    assert len(changes) == 3
    assert all(change.left != change.right for change in changes)
    for latex in (False, True):
        assert len({driver.mathematics(objective(t), latex=latex) for t in texts}) == 2


def test_letters_for_counts_are_explained_and_never_those_of_the_file() -> None:
    goal = "maximize mean[p] mean[i] (x * sum[t] log(pi)) + mean[p,i] (P * sum[t] log(pi))"
    shown = driver.mathematics(objective(f"param P = 2\nx = reward + 1\n{goal}"), weights=True)
    assert "G = number of responses to the prompt" in shown
    assert "N = number of responses\n" in shown
    assert not re.search(r"^ *P = ", shown, re.MULTILINE)
    assert "sum[p] 1" in shown
