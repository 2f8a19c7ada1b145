"""What masks and `keep` imply for divisors, and masks that leave nothing out."""

from __future__ import annotations

import pytest

import objdsl
from objdsl.lint.run import findings

HEAD = "objective guarded\ns = std[i] reward\nm = mean[i] reward\nc = reward - m\n"


def codes(text: str, goal: str = "maximize mean[p,i] sum[t] (A * log(pi))") -> set[str]:
    objective = objdsl.loads(f"{HEAD}{text}\n{goal}\n")
    unread = "OBJ801"  # not every form reads all of HEAD
    return {finding.code for finding in findings(objective.formula)} - {unread}


@pytest.mark.parametrize(
    "text",
    [
        "A = c / s if s > 0 else 0",
        "A = 0 if s == 0 else c / s",
        "A = c / s if not s <= 0 else 0",
        "A = c / s if s > 0.01 else 0",
        "A = c / s if max[i] reward > min[i] reward else 0",
        "A = c / s if pstd[i] reward > 0 and |y| > 2 else 0",
        "A = c / s\nkeep p where s > 0",
        "A = c / s\nkeep p where min[i] reward < max[i] reward",
        "A = c / (2 * s) if s != 0 else 0",
        "A = c / (s if s > 0 else 1)",
        "A = c / max(s, 1e-6)",
        "given reward in {0, 1}\nA = c / m if m > 0 else 0",
        "given reward in {0, 1}\nA = c / m if sum[i] reward >= 1 else 0",
        "given reward in {1, 2}\nA = c / m",
    ],
)
def test_a_guarded_divisor_is_not_zero(text: str) -> None:
    assert "OBJ613" not in codes(text)


@pytest.mark.parametrize(
    "text",
    [
        "A = c / s",
        "A = c / s if m > 0 else 0",
        "A = c / s if |y| > 0 else 0",
        "A = c / s if s >= 0 else 0",
        "A = 0 if s > 0 else c / s",
        "A = c / s if s > 0 or m > 0 else 0",
        "A = c / s\nkeep p where m > 0",
        "B = c / s\nA = B if B > 0 else 2 * B",
        "A = (c / s if s > 0 else 0) + c / s",
        "given reward in {0, 1}\nA = c / m",
    ],
)
def test_another_mask_guards_nothing(text: str) -> None:
    assert "OBJ613" in codes(text)


@pytest.mark.parametrize(
    "value",
    ["c if s > 0 else 0", "c * (max[i] reward > min[i] reward)", "0 if pstd[i] reward == 0 else c"],
)
def test_a_mask_of_groups_without_an_advantage_leaves_nothing_out(value: str) -> None:
    assert codes(f"A = {value}") <= {"OBJ205"}
    assert "OBJ601" in codes(f"A = {value.replace('c', 'reward', 1)}")


def test_groups_without_an_advantage_are_no_part_of_what_is_summed() -> None:
    """GPG divides by the number of prompts whose rewards differ."""
    goal = "maximize sum[p] mean[i] sum[t] (c * log(pi)) / max({}, 1)"
    differ = codes("", goal.format("sum[p] (1 if s > 0 else 0)"))
    assert differ.isdisjoint({"OBJ619", "OBJ202", "OBJ613"})
    assert "OBJ619" in codes("", goal.format("sum[p] (1 if m > 0.5 else 0)"))


def test_a_distance_in_deviations_is_bounded() -> None:
    goal = "maximize mean[p,i] sum[t] (sg(exp({} * A)) * log(pi))"
    bounded = "A = c / (s + 1e-6)\nsample from old: group 16"
    assert "OBJ612" not in codes(bounded, goal.format(2))
    assert "OBJ612" in codes(bounded, goal.format(100))
    assert "OBJ612" in codes("A = c / (std[i] |y| + 1e-6)", goal.format(2))
