"""`objdsl diff`: what changed between two objectives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]

BASE = """objective base
A = reward - mean[i] reward
r = pi / old
maximize mean[p,i,t] (r * A)
"""


def _diff(run: Run, left: str, right: str) -> str:
    Path("a.obj").write_text(left)
    Path("b.obj").write_text(right)
    result = run("diff", "a.obj", "b.obj")
    assert result.exit_code == (0 if "the same objective" in result.output else 1)
    return result.output


def test_names_order_and_layout_do_not_count(run: Run) -> None:
    other = """objective other  # under another name
ratio = (pi
    / old)
spare = reward * 2
maximize mean[p,i,t] (ratio * (reward - mean[i] reward))
"""
    same = "the same objective\nr is called ratio in the second\n"
    assert _diff(run, BASE, other) == same


CLIPPED = """objective clipped
param eps = 0.2 in (0, 1)
param low = 0.2 in (0, 1)
param high = 0.3
param beta = 0.2
r = pi / old
A = reward - mean[j != i] reward
report share = mean[p,i,t] (r > 1 + beta)
maximize mean[p,i,t] (min(r * A, clip(r, 1 - low, 1 + high) * A) + eps * k3(pi, ref))
"""


def test_parameters_of_one_value_are_told_by_where_they_stand(run: Run) -> None:
    other = """objective other
param b = 0.2
param eps = 0.3
param low = 0.2 in (0, 1)
param lower = 0.2 in (0, 1)
B = reward - mean[k != i] reward
q = pi / old
report share = mean[p,i,t] (q > 1 + b)
maximize mean[p,i,t] (min(q * B, clip(q, 1 - lower, 1 + eps) * B) + low * k3(pi, ref))
"""
    pairs = ("eps", "low"), ("low", "lower"), ("high", "eps"), ("beta", "b"), ("r", "q"), ("A", "B")
    printed = _diff(run, CLIPPED, other).splitlines()
    assert printed[0] == "the same objective"
    assert sorted(printed[1:]) == sorted(f"{a} is called {b} in the second" for a, b in pairs)


def test_two_parameters_of_one_value_are_not_one(run: Run) -> None:
    printed = _diff(run, CLIPPED, CLIPPED.replace("eps *", "low *"))
    assert printed.startswith("- param eps = 0.2 in (0, 1)\n- maximize")
    assert "eps * " in printed and "low * " in printed


def test_a_name_that_the_second_has_for_something_else_is_marked(run: Run) -> None:
    right = CLIPPED.replace("high", "top_bound").replace("param eps", "param high")
    right = right.replace("eps *", "(1 + high) *")
    printed = _diff(run, CLIPPED, right)
    assert "clip(r, 1 - low, 1 + high) * A)" in printed
    assert " (1 + high') * " in printed
    assert "high is called top_bound in the second\n" in printed
    assert "high' is called high in the second\n" in printed


def test_a_definition_that_changed_is_one_pair_of_lines(run: Run) -> None:
    printed = _diff(run, BASE, BASE.replace("reward - mean[i] reward", "reward - mean[p,i] reward"))
    assert printed == (
        "- A = reward - mean[i] reward\n"
        "+ A = reward - mean[p,i] reward\n"
    )  # fmt: skip


def test_a_denominator_that_changed(run: Run) -> None:
    printed = _diff(run, BASE, BASE.replace("mean[p,i,t]", "mean[p] mean[i] mean[t]"))
    assert printed == (
        "- maximize mean[p,i,t] (r * A)\n"
        "+ maximize mean[p] mean[i] mean[t] (r * A)\n"
    )  # fmt: skip


def test_names_that_changed_places(run: Run) -> None:
    swapped = BASE.replace("A", "B").replace("r = pi", "A = pi").replace("(r * B)", "(A * B)")
    names = "r is called A in the second\nA is called B in the second\n"
    assert _diff(run, BASE, swapped) == f"the same objective\n{names}"
    taken = BASE.replace("A", "B").replace("(r * B)", "(r * (A + B))") + "A = 2 * reward\n"
    assert _diff(run, BASE, taken) == (
        "+ A = 2 * reward\n"
        "- maximize mean[p,i,t] (r * B)\n"
        "+ maximize mean[p,i,t] (r * (A + B))\n"
        "A is called B in the second\n"
    )  # fmt: skip


def test_values_may_differ_where_gradients_do_not(run: Run) -> None:
    printed = _diff(run, BASE, BASE.replace("(r * A)", "(r * A + reward)"))
    assert printed.endswith("the gradient is the same\n")


def test_parameters_policies_and_sampling(run: Run) -> None:
    left = "objective o\nparam c = 1 in [0, 2]\nmaximize mean[p,i,t] (c * pi * reward)\n"
    right = left.replace("= 1 in", "= 2 in") + "sample from mu: group 8, keep_mask\n"
    printed = _diff(run, left, right)
    assert printed == (
        "- param c = 1 in [0, 2]\n"
        "+ param c = 2 in [0, 2]\n"
        "+ sample group 8\n"
        "+ sample keep_mask\n"
    )  # fmt: skip


def test_the_gallery_says_what_a_paper_changed(run: Run) -> None:
    result = run("diff", "grpo", "dr_grpo")
    assert result.exit_code == 1
    assert "- A = (reward - mean[i] reward) / (std[i] reward + 0.0001)" in result.output
    assert "+ A = reward - mean[i] reward" in result.output


def test_a_layer_is_compared_by_its_parameter_s_value(run: Run) -> None:
    inner = (
        "param depth = 6 in [1, inf)\npolicy early = pi at layer depth\n"
        "maximize mean[p,i] (reward * sum[t] log(early))\n"
    )
    names = "depth is called k in the second\n"
    assert _diff(run, inner, inner.replace("depth", "k")) == f"the same objective\n{names}"
    deeper = inner.replace("= 6", "= 7")
    assert _diff(run, inner, deeper) == (
        "- param depth = 6 in [1, inf)\n+ param depth = 7 in [1, inf)\n"
    )
    printed = _diff(run, inner, deeper.replace("depth", "k"))
    assert "+ policy early = pi at layer k\n" in printed
