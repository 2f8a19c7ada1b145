"""Formulas as people read them say exactly what is computed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objdsl import driver
from objdsl.ir.diff import diff
from objdsl.ir.indices import decimal
from objdsl.ir.layout import WIDTH, folded
from objdsl.ir.objective import Objective
from objdsl.ir.text import text
from objdsl.ir.writer import names_of
from objdsl.objectives import gallery
from objdsl.source import Source
from objdsl.syntax.parse import parse_expression
from objdsl.syntax.reach import loose


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
    assert "count[p]" in shown


def tex(text: str, *, weights: bool = False) -> str:
    return driver.mathematics(objective(text), weights=weights, latex=True)


def test_the_index_changes_and_never_a_name() -> None:
    of_group = tex(
        "given r_ext[p,i]\nA = reward - mean[i] r_ext\nmaximize mean[p,i,t] (A * log(pi))"
    )
    assert r"\operatorname{mean}_{j}\left( r_{\mathrm{ext},j} \right)" in of_group
    others = tex(
        "given x_hard_it[p,i]\n"
        "maximize mean[p,i] ((reward - mean[j != i] (x_hard_it * reward)) * sum[t] log(pi))"
    )
    assert r"\sum_{j \ne i} x_{\mathrm{hard\_it},j} \, R_j" in others
    along = tex("given r_it[p,i,t]\nmaximize mean[p,i] sum[t] ((sum[s > t] r_it) * log(pi))")
    assert r"\sum_{s > t} r_{\mathrm{it},i,s}" in along
    inside = tex("maximize mean[p,i] sum[t] ((sum[s > t] sg(log(pi) * s / |y|)) * log(pi))")
    assert r"\log \pi_\theta(y_{i,s} \mid x, y_{i,<s}) \, s" in inside


def test_an_index_inside_another_has_a_letter_of_its_own() -> None:
    shown = tex(
        "maximize mean[p,i] "
        "((reward - mean[j != i] (reward - mean[k != i] reward)) * sum[t] log(pi))"
    )
    assert r"\sum_{j \ne i} \left( R_j - \frac{1}{G - 1} \sum_{k \ne j} R_k \right)" in shown
    group = tex("maximize mean[p,i] ((mean[j != i] (reward - std[i] reward)) * sum[t] log(pi))")
    assert r"\sum_{j \ne i} \left( R_j - \operatorname{std}_{k}\left( R_k \right) \right)" in group
    length = tex("maximize mean[p,i] ((mean[j != i] (reward * |y|)) * sum[t] log(pi))")
    assert "|y_j|" in length


def test_letters_of_the_file_stand_for_nothing_else() -> None:
    for name, bound in (("j", "k"), ("k", "j")):
        other = "k" if name == "j" else "j"
        text = (
            f"param {name} = 1\n"
            f"maximize mean[p,i] ((reward - {name} * mean[{other} != i] reward) * sum[t] log(pi))"
        )
        assert rf"\sum_{{{bound} \ne i}} R_{bound}" in tex(text)
    scan = "param s = 2\nmaximize mean[p,i] sum[t] ((sum[u > t] (u * s * reward)) * log(pi))"
    assert r"\sum_{u > t} u \, s" in tex(scan)
    assert "sum[u > t] (u * s * reward)" in driver.mathematics(objective(scan))
    groups = tex("param G = 2\nmaximize mean[p] mean[i] (G * reward * sum[t] log(pi))")
    assert r"\frac{1}{\#i} \sum_{i=1}^{\#i} G" in groups
    rewards = tex("given R[p,i]\nmaximize mean[p,i] ((reward - R) * sum[t] log(pi))")
    assert r"\mathrm{reward}_{i} - R_{i}" in rewards


def test_every_name_is_a_symbol_of_its_own() -> None:
    names = (
        "_",
        "__",
        "_x",
        "x",
        "x_",
        "x__y",
        "x_y",
        "xy",
        "eps",
        "lam",
        "lambda",
        "epsilon",
        "b_i",
    )
    shown = {tex(f"param {name} = 1\nmaximize {name} * mean[p,i,t] log(pi)") for name in names}
    assert len(shown) == len(names)
    assert not any(re.search(r"(?<![\\\w}])_", text) for text in shown)  # a subscript of nothing


def test_what_is_no_number_is_written() -> None:
    for value in ("inf - inf", "(inf - inf)", "0 * inf", "-inf"):
        for weights in (False, True):
            text = f"maximize mean[p,i] ((reward + ({value})) * sum[t] log(pi))"
            for latex in (False, True):
                assert driver.mathematics(objective(text), weights=weights, latex=latex)
    assert r"\mathrm{NaN}" in tex("maximize mean[p,i,t] ((inf - inf) * log(pi))", weights=True)


@pytest.mark.parametrize("name", gallery.names())
def test_what_is_printed_reads_one_way(name: str) -> None:
    formula = driver.compile_source(gallery.bundled(name))
    names = names_of(formula.bindings)
    weights = driver.derivatives(formula).values()
    for expr in (formula.goal, *weights, *(binding.value for binding in formula.bindings)):
        shown = text(expr, names).replace("|V|", "V_size")
        assert not list(loose(parse_expression(shown))), shown


ASPO = """
objective aspo
param c = 3
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
r = pi / old
w = old * pi / sg(pi)^2 if A > 0 else r
maximize mean[p,i,t] dual_clip(surrogate(w, A, 0.8, 1.28), A, c)
"""


def test_common_parts_have_names_and_lines_fit_a_screen() -> None:
    formula = driver.compile_source(Source("aspo.obj", ASPO))
    shown = driver.mathematics(formula, weights=True)
    assert max(map(len, shown.splitlines())) <= WIDTH and len(shown.splitlines()) <= 16
    parts = re.findall(r"^    (u\d) = ", shown, re.MULTILINE)
    assert parts == [f"u{k}" for k in range(1, len(parts) + 1)] and len(parts) >= 3
    part = "min(w * A, clip(w, 0.8, 1.28) * A)"
    assert shown.count(part) == 1 and f"= {part}\n" in shown
    taken = driver.compile_source(
        Source("aspo.obj", ASPO.replace("w ", "u1 ").replace("(w", "(u1"))
    )
    assert "    u2 = " in driver.mathematics(taken, weights=True)


@pytest.mark.parametrize(
    ("line", "folded_line"),
    [
        ("J = a * (b + c) + d", "J = a * (b + c) + d"),
        (
            "J = aaaaaaaaaaaaaaa * (b + c) + dddddddddd",
            "J = aaaaaaaaaaaaaaa * (b + c)\n        + dddddddddd",
        ),
        ("    x = a" + "b" * 50, "    x = a" + "b" * 50),
    ],
)
def test_lines_break_before_an_operator(line: str, folded_line: str) -> None:
    assert folded(line, 30) == folded_line
