"""Every form of the language, in a small objective: it is compiled, checked and explained, its
formatting is stable, and the audit measures it."""

from __future__ import annotations

import pytest

import objdsl
from objdsl import driver
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import facts_of
from objdsl.audit import audit
from objdsl.audit.columns import Given
from objdsl.source import Source
from objdsl.syntax.format import format as formatted
from objdsl.syntax.parse import parse

GIVEN = (
    "given parent[p,i] before i\ngiven domain[p] in {0, 1}\ngiven turn[p,i,t] before t\n"
    "given place[p,i,t] before t\ngiven correct[p,i] in {0, 1} as reward\n"
)
ADVANTAGES = [
    "correct - mean[i by parent] correct",
    "correct - mean[p,i by domain] correct",
    "correct - mean[j != i by parent] correct",
    "correct - mean[j != i, t by place | turn > 0] correct",
    "correct - mean[i by t] V_old",
    "correct - mean[i,t by turn | first(turn)] correct",
    "mean[j != i] max(correct[j], correct[i])",
    "sum[j != i] (correct[j] < correct[i])",
    "(correct - mean[j != i] correct) / (std[j != i] correct + 1)",
    "correct - max[j != i] correct",
    "correct - median[i] correct",
    "correct - quantile[i](correct, 0.4)",
    "correct * (rank[i] correct > 1)",
    "correct * top[p,i](correct + |y|, 0.5)",
    "correct * trim[p,i](|y|, 2)",
    "correct * (count[t | t > 1] / count[t])",
    "correct - count[i] (correct == 1) / count[i]",
    "correct * comb(3, 2)",
    "correct * (token == 5)",
    "correct * (sum[v | topk[v](pi[v], 2)] sg(pi[v]))",
    "correct * (sum[v | nucleus[v](pi[v], 0.5)] sg(pi[v]))",
    "sum[s >= t] ((s - t[t]) * correct)",
    "togo((t == |y|) * correct, 0.9 if next(turn) != turn else 1)",
    "(correct - mean[i] correct) * (exp(sum[t by turn] log(pi / old)))",
]


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_a_form_goes_through_every_stage(advantage: str) -> None:
    text = f"objective x\n{GIVEN}A = {advantage}\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
    source = Source("x.obj", text)
    assert driver.check(source).findings is not None
    objective = objdsl.loads(text)
    assert [*sections(facts_of(objective.formula))]
    tidy = formatted(parse(source))
    assert formatted(parse(Source("x.obj", tidy))) == tidy
    assert objdsl.loads(tidy).digest == objective.digest
    given: dict[str, Given] = dict.fromkeys(("parent", "domain", "turn", "place"), "random")
    report = audit(
        objective, given=given, policies=1, drifts=(), vocabulary=2, horizon=2,
        group=2, prompts=1,
    )  # fmt: skip
    assert 0 <= report.residual <= 2
