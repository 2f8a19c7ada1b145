"""`policy teacher top 64`: a policy of which the most probable vocabulary entries are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import objdsl
from objdsl import driver
from objdsl.errors import ObjectiveError
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.source import Source
from objdsl.syntax.format import format
from objdsl.syntax.parse import parse

NEAR = "topk[v](teacher[v], 2)"
GOAL = f"""\
objective x

policy teacher top 2

near = {NEAR}
tail = 1 - sum[v | near] teacher[v]
rest = 1 - sum[v | near] pi[v]

maximize mean[p,i,t] (
    sum[v | near] (teacher[v] * log(pi[v] / teacher[v])) + tail * log(rest / tail)
)
"""


def test_entries_that_are_not_listed_have_no_part() -> None:
    """The listed entries and the tail, from a column that has no others."""
    rng = np.random.default_rng(0)
    full = torch.from_numpy(rng.normal(size=(2, 3, 6))).log_softmax(-1)
    pi = torch.from_numpy(rng.normal(size=(2, 3, 6))).log_softmax(-1)
    log_probs, entries = full.topk(2, dim=-1)
    served = torch.full_like(full, -torch.inf).scatter(-1, entries, log_probs)
    p, q = log_probs.exp(), pi.gather(-1, entries).exp()
    tail, rest = 1 - p.sum(-1), 1 - q.sum(-1)
    expected = float(((p * (q / p).log()).sum(-1) + tail * (rest / tail).log()).mean())
    given = objdsl.loads(GOAL)
    columns = {"log_pi_dist": pi.numpy(), "log_teacher_dist": served.numpy()}
    (value,) = evaluate([given.formula.goal], Batch([0, 1], [3, 3], columns, 6))
    assert value == pytest.approx(expected, abs=1e-12)
    step = given.prepare(prompt=[0, 1], mask=torch.ones(2, 3), log_teacher_dist=served)
    leaf = pi.clone().requires_grad_()
    J, weights, _ = given.weights(step=step, log_pi_dist=pi)
    assert float(J) == pytest.approx(expected, abs=1e-12)
    q = leaf.gather(-1, entries).exp()
    ((p * (q / p).log()).sum(-1) + tail * ((1 - q.sum(-1)) / tail).log()).mean().backward()
    torch.testing.assert_close(weights["log_pi_dist"], leaf.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "body",
    [
        f"sum[v | {NEAR}] (teacher[v] * log(pi[v]))",
        f"sum[v | {NEAR} and pi[v] > 0.1] (teacher[v] * log(pi[v]))",
        f"sum[v | {NEAR} and teacher[v] > 0.1] log(pi[v])",
        f"sum[v] ({NEAR} * teacher[v] * log(pi[v]))",
        f"sum[v] (teacher[v] * log(pi[v]) if {NEAR} else 0)",
        "sum[v | topk[v](teacher[v], k)] (teacher[v] * log(pi[v]))",
        "log(pi / teacher)",
    ],
)
def test_what_may_be_read(body: str) -> None:
    head = "objective x\nparam k = 1 in [1, 2]\npolicy teacher top 2\n"
    assert objdsl.loads(f"{head}maximize mean[p,i,t] ({body})\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sum[v] (teacher[v] * log(pi[v]))", "only the 2 most probable entries of `teacher` are"),
        ("sum[v | teacher[v] > 0.1] pi[v]", "only the 2 most probable entries of `teacher` are"),
        ("sum[v | topk[v](pi[v], 2)] (teacher[v] * pi[v])", "only the 2 most probable entries"),
        (f"sum[v | not ({NEAR})] (teacher[v] * pi[v])", "only the 2 most probable entries"),
        (f"sum[v] (pi[v] if {NEAR} else teacher[v])", "only the 2 most probable entries"),
        ("sum[v | nucleus[v](teacher[v], 0.5)] pi[v]", "only the 2 most probable entries"),
        ("kl(teacher, pi)", "only the 2 most probable entries of `teacher` are known"),
        ("sum[v | topk[v](teacher[v], 3)] pi[v]", "only 2 entries of `teacher` are known"),
        ("sum[v | topk[v](teacher[v], k)] pi[v]", "only 2 entries of `teacher` are known"),
    ],
)
def test_what_may_not(body: str, message: str) -> None:
    head = "objective x\nparam k = 1 in [1, inf)\npolicy teacher top 2\n"
    with pytest.raises(ObjectiveError, match=message):
        objdsl.loads(f"{head}maximize mean[p,i,t] ({body}) + mean[p,i,t] pi\n")


def test_it_is_written_as_it_is_read() -> None:
    formula = driver.compile_source(Source("x.obj", GOAL))
    assert [policy.top for policy in formula.policies] == [2]
    assert "policy teacher top 2\n" in format(parse(Source("x.obj", GOAL)))
    again = loads(Source("x.json", dumps(formula))).objective
    assert again.policies == formula.policies and again.goal == formula.goal


@pytest.mark.parametrize(
    "statement", ["policy t top 0", "policy t top 2.5", "policy t = pi at layer 3 top 4"]
)
def test_what_is_not_a_number_of_entries(statement: str) -> None:
    with pytest.raises(ObjectiveError):
        objdsl.loads(f"objective x\n{statement}\nmaximize mean[p,i,t] log(t)\n")


def test_top_is_still_a_name_and_a_mask() -> None:
    text = "objective x\npolicy top\nmaximize mean[p,i,t | {}] log(pi / top)\n"
    with pytest.raises(ObjectiveError, match="`top` already has a meaning"):
        objdsl.loads(text.format("pi > old"))
    assert objdsl.loads("objective x\nmaximize mean[p,i,t | top[p,i,t](pi / old, 0.5)] log(pi)\n")
