"""Baselines by a key: the checker's verdict is that of the sum over all draws."""

from __future__ import annotations

import pytest

import objdsl
from objdsl import driver
from objdsl.audit.experiment import audit
from objdsl.diagnostic import Diagnostic
from objdsl.source import Source

EXACT = [
    ("given k[p,i,t] before t", "mean[j != i, t by k] reward"),
    ("given k[p,i,t] before t", "mean[j != i, t by k | t > 1] reward"),
    ("given k[p,i] before i", "mean[j != i by k] reward"),
    ("given k[p,i] before i", "max[j != i by k] reward"),
    ("", "max[j != i] reward"),
    ("", "std[j != i] reward"),
    ("", "mean[j != i by t] reward"),
]
BIASED = [
    ("given k[p,i,t] at t", "mean[j != i, t by k] reward"),
    ("given k[p,i,t]", "mean[j != i, t by k] reward"),
    ("given k[p,i]", "mean[j != i by k] reward"),
    ("given k[p,i,t] before t", "mean[i,t by k] reward"),
    ("", "mean[i by t] reward"),
    ("", "mean[j != i] max(reward[j], reward[i])"),
]


def text(given: str, baseline: str) -> str:
    return (
        f"objective x\ngiven reward in [0, 1]\n{given}\nA = reward - ({baseline})\n"
        "maximize mean[p,i] sum[t] (A * log(pi))\n"
    )


def findings(source: str) -> tuple[Diagnostic, ...]:
    return tuple(driver.check(Source("x.obj", source)).findings)


def residual(source: str, given: str) -> float:
    columns = {"k": "random"} if given else {}
    report = audit(objdsl.loads(source), given=columns, policies=1, drifts=(), horizon=3)
    return report.rows[0].residual.worst


@pytest.mark.parametrize(("given", "baseline"), EXACT)
def test_a_baseline_by_a_key_that_is_known_before_is_exact(given: str, baseline: str) -> None:
    source = text(given, baseline)
    assert not findings(source)
    assert residual(source, given) < 1e-12


@pytest.mark.parametrize(("given", "baseline"), BIASED)
def test_a_baseline_that_holds_the_own_response_is_a_finding(given: str, baseline: str) -> None:
    source = text(given, baseline)
    assert findings(source)
    assert residual(source, given) > 1e-3
