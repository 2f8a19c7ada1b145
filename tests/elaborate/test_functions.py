"""Policies as arguments of functions."""

from __future__ import annotations

import pytest

import objdsl
from objdsl.errors import ObjectiveError
from objdsl.ir.objective import Objective as Formula

SUM = "sum[v] ({0}[v] * log({0}[v] / {1}[v]))"


def goal(body: str, *, before: str = "") -> Formula:
    text = f"objective x\npolicy teacher\n{before}maximize mean[p,i,t] ({body}) + mean[p,i,t] pi\n"
    return objdsl.loads(text).formula


@pytest.mark.parametrize(("p", "q"), [("pi", "ref"), ("teacher", "pi"), ("old", "teacher")])
def test_a_policy_keeps_its_distribution(p: str, q: str) -> None:
    assert goal(f"kl({p}, {q})").goal == goal(SUM.format(p, q)).goal


def test_through_functions_of_functions() -> None:
    both = "def both(p, q) = kl(p, q) + kl(q, p)\n"
    written = f"{SUM.format('pi', 'ref')} + {SUM.format('ref', 'pi')}"
    assert goal("both(pi, ref)", before=both).goal == goal(written).goal
    token = "def f(p) = p * sum[v] p[v]^2\n".replace("p[v]^2", "(p[v]^2)")
    assert goal("f(pi)", before=token).goal == goal("pi * sum[v] (pi[v]^2)").goal


def test_a_stopped_policy_is_a_stopped_distribution() -> None:
    stopped = goal("kl(sg(pi), ref)").goal
    assert stopped == goal("sum[v] (sg(pi[v]) * log(sg(pi[v]) / ref[v]))").goal


@pytest.mark.parametrize("value", ["pi / old", "reward", "log(pi)", "pi * 1 + 0 * old"])
def test_what_is_not_a_policy_has_none(value: str) -> None:
    with pytest.raises(ObjectiveError, match="`p` is not a policy here"):
        goal(f"kl({value}, ref)")


def test_a_file_may_call_something_else_kl() -> None:
    text = "objective x\nkl = mean[t] k1(pi, ref)\nmaximize mean[p,i] (reward * kl)\n"
    assert "log_pi_dist" not in objdsl.loads(text).formula.columns
