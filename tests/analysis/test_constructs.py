"""Keys, order statistics, values of other responses, states, schedules, several rewards and rewards
of tokens: the checker's verdict is that of the sum over all outcomes.

Objectives are put together at random from these constructs; the audit runs the code that they
compile to, and knows nothing of the analysis.
"""

from __future__ import annotations

import random
import re

import pytest

import objdsl
from helpers.samples import parts
from objdsl.analysis.facts import facts_of
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit import Audit, audit
from objdsl.audit.columns import Given
from objdsl.ir.phases import phases
from objdsl.lint.run import findings

EXACT, BIASED = 1e-8, 1e-3
# Functions of the tokens up to what a column is known with.
COLUMNS: dict[str, Given] = {
    "domain": "random",
    "role": "random",
    "place": "random",
    "kind": lambda y: float(len(y) > 1),
    "turn": lambda before: float(1 + (1 in before)),
    "tool": lambda so_far: float(so_far[-1]),
}

DOMAINS = ["", " in {0, 1}", " in [0, 1]", " in {0, 0.5, 1}"]
REWARDS = [
    "correct",
    "correct",
    "0.8 * correct + 0.2 * format",
    "correct - 0.3 * format",
    "comb(2 + correct, 2)",
    "(correct if step < 100 else 0.5 * format)",
    "correct + (0.5 if step >= 100 else 0) * format",
]
KNOWN_BEFORE = [
    "mean[j != i] R",
    "mean[j != i by role] R",
    "mean[j != i by role > 0] R",
    "mean[j != i | kind > 0] R",
    "mean[j != i by t] R",
    "mean[j != i, t by place] R",
    "mean[j != i, t by place, role] R",
    "mean[j != i, t by place | first(turn)] R",
    "mean[j != i] (R[j] - R[i])",
    "max[j != i] R",
    "std[j != i by role] R",
    "sum[j != i] (R[j] < 0.4)",
    "logsumexp[j != i] R",
    "base",
    "base * tau",
    "(0.3 if step < 100 else 0.2)",
    "count[i]",
    "role",
    "place",
    "sum[v | topk[v](old[v], 1)] old[v]",
    "sum[v | nucleus[v](old[v], 0.6)] old[v]",
    "sum[s < t] progress",
    "max[s < t] progress",
    "sum[s < t by place] progress",
    "mean[j != i] sum[t] progress",
]
OWN = [
    "mean[i] R",
    "mean[i by role] R",
    "mean[p,i by role] R",
    "mean[i by kind] R",
    "mean[j != i by kind] R",
    "mean[j != i by count[t]] R",
    "mean[i,t by place] R",
    "mean[j != i, t by tool] R",
    "mean[j != i] max(R[j], R[i])",
    "mean[j != i] (R[j] < R[i])",
    "median[i] R",
    "quantile[i](R, 0.3)",
    "(rank[i] R) / 4",
    "mean[i | trim[i](R, 0.3)] R",
    "mean[i | top[i](R, 0.5)] R",
    "count[i | R > 0.3]",
    "count[t by turn]",
    "tool",
    "(token == 1)",
    "sum[s <= t] progress",
    "sum[s <= t by turn] progress",
]
WEIGHTS = [
    "tau",
    "(1 + base^2)",
    "(1 + step)",
    "(1 + abs(kind))",
    "(1 + place^2)",
    "1 / (1 + std[j != i] R)",
    "1 / (0.1 + std[i] R)",
    "1 / count[t by turn]",
    "1 / (1 + count[i by kind])",
    "count[t | t < 3]",
    "first(turn)",
    "(token != 1)",
    "(R > median[i] R)",
    "top[i](R, 0.5)",
    "(1 + mean[j != i by t] (R^2))",
]
OF_TOKENS = [
    "sum[s >= t] progress",
    "R + sum[t] progress - mean[j != i] sum[t] progress",
    "progress",
    "togo(progress, tau)",
    "togo(progress, 0.9 if step < 100 else 1)",
    "togo(progress, 0.5 if next(turn) != turn else 1)",
    "togo(progress, 1 / (1 + place^2))",
    "sum[s >= t by turn] progress",
    "sum[t by turn] progress",
    "gae(progress, 1, tau)",
    "gae(progress, 1, 1 - 1 / |y|)",
    "sum[t | first(turn)] progress",
    "max[s >= t] progress",
    "(sum[s >= t] progress) - mean[j != i, t by place] (sum[s >= t] progress)",
    "(sum[s >= t] progress) - mean[i,t by place] (sum[s >= t] progress)",
    "togo(progress, 1) - V_old",
]
GOALS = [
    "mean[p,i] sum[t] ({})",
    "mean[p,i] sum[t] ({})",
    "mean[p,i] ((sum[t] ({})) / 7)",
    "mean[p] ((sum[i] sum[t] ({})) / count[i])",
    "(1 if step < 100 else 0.5) * mean[p,i] sum[t] ({})",
    "mean[p,i] sum[t | trim[p,i,t](log(pi / old)^2, 0.04)] ({})",
    "mean[p,i] mean[t | first(turn)] ({})",
    "mean[p,i] sum[t] (({}) / count[t by turn])",
    "mean[p,i] sum[t | token != 1] ({})",
    "mean[p] ((sum[i] sum[t] ({})) / (1 + count[i | R > 0.3]))",
]
POLICY = [
    "A * log(pi)",
    "A * log(pi)",
    "surrogate(pi / old, A, 1 - eps, 1 + eps)",
    "A * exp((sum[t by turn] log(pi / old)) / count[t by turn])",
    "A * exp(sum[t by turn] log(pi / old))",
    "A * mean[t by place] (pi / old)",
]


def drawn(rng: random.Random) -> str:
    if rng.random() < 0.25:
        advantage = rng.choice(OF_TOKENS)
    else:
        advantage = f"R - {rng.choice(KNOWN_BEFORE if rng.random() < 0.6 else OWN)}"
    if rng.random() < 0.3:
        advantage = f"({advantage}) * {rng.choice(WEIGHTS)}"
    policy = rng.choice(POLICY) if rng.random() < 0.5 else POLICY[0]
    goal = (rng.choice(GOALS) if rng.random() < 0.4 else GOALS[0]).format(policy)
    domains = rng.choice(DOMAINS), rng.choice(DOMAINS)
    return text(advantage, goal, rng.choice(REWARDS), domains)


def text(advantage: str, goal: str, reward: str, domains: tuple[str, str] = ("", "")) -> str:
    return f"""objective constructs
given correct[p,i]{domains[0]} as reward
given format[p,i]{domains[1]} as reward
given progress[p,i,t] as reward
given domain[p]
given role[p,i] before i
given kind[p,i]
given place[p,i,t] before t
given turn[p,i,t] before t
given tool[p,i,t] at t
state base[p] = 0 next 0.9 * base + 0.1 * mean[i] correct
state tau = 0.5 next clip(tau + 0.1 * (mean[p,i] correct - 0.5), 0.1, 1)
eps = 0.2 if step < 100 else 0.1
R = {reward}
A = {advantage}
sample from old: group 3
maximize {goal}
"""


def measured(objective: str) -> tuple[Audit, Audit]:
    """With one prompt, and with two that may have different weights."""
    compiled = objdsl.loads(objective)
    given = {name: value for name, value in COLUMNS.items() if name in compiled.columns}
    single, pair = (
        audit(
            compiled, vocabulary=2, horizon=horizon, prompts=prompts, policies=policies,
            drifts=(), given=given,
        )
        for horizon, prompts, policies in ((3, 1, 3), (2, 2, 1))
    )  # fmt: skip
    return single, pair


@pytest.mark.parametrize("part", parts(6, 2))
def test_what_is_proven_is_measured(part: int) -> None:
    rng = random.Random(part)
    seen = set()
    for form in [drawn(rng) for _ in range(20)]:
        phase = phases(objdsl.loads(form).formula)[-1].objective
        facts = facts_of(phase)
        (estimator,) = facts.estimators
        single, pair = measured(form)
        residual = max(single.residual, pair.residual)
        match estimator.direction:
            case Direction.EXACT:
                assert residual < EXACT, form
                fitted = {
                    name: float(c) for c, name in re.findall(r"(-?[\d.e-]+) (\w+)", single.raises)
                }
                raised = {column.name: c for column, c in (estimator.raised or {}).items()}
                if fitted:
                    scale = max(map(abs, raised.values())) / max(map(abs, fitted.values()))
                    assert {name: scale * c for name, c in fitted.items()} == pytest.approx(
                        {name: raised.get(name, 0.0) for name in fitted}, abs=0.02 * scale
                    ), form
            case Direction.REWEIGHTED:
                assert single.residual < EXACT, form
            case Direction.BIASED | Direction.SHAPED:
                assert residual > BIASED, form
            case Direction.REVERSED:
                assert single.row(reward="real").cosine.mean < 0, form
            case Direction.NONE:
                assert single.row(reward="real").norm.mean < EXACT, form
            case Direction.UNKNOWN:
                assert "not-judged" in {x.name for x in findings(phase)}, form
        seen.add(estimator.direction)
    assert {Direction.EXACT, Direction.BIASED} <= seen


@pytest.mark.parametrize(
    ("advantage", "policy", "direction"),
    [
        ("R - mean[j != i] (R[j] - R[i])", "A * log(pi)", Direction.EXACT),
        ("R - mean[j != i by kind] (R[j] - R[i])", "A * log(pi)", Direction.BIASED),
        ("R - mean[p,i by role] R", "A * log(pi)", Direction.REWEIGHTED),
        ("R - mean[p,i by kind] R", "A * log(pi)", Direction.BIASED),
        ("R / (1 + sum[p,i by domain] abs(R))", "A * log(pi)", Direction.BIASED),
        ("R - max[p,i by domain] R", "A * log(pi)", Direction.BIASED),
        ("R - max[s < t] progress", "A * mean[t by place] (pi / old)", Direction.BIASED),
        ("R - mean[j != i, t by place] R", "A * mean[t by place] (pi / old)", Direction.EXACT),
    ],
)
def test_what_peers_share(advantage: str, policy: str, direction: Direction) -> None:
    """A key, and a statistic of the elements that share it, are the same for all of them; a prompt
    shares its keys with others of the step."""
    form = text(advantage, GOALS[0].format(policy), "correct + 0.5 * format")
    (estimator,) = facts_of(objdsl.loads(form).formula).estimators
    assert estimator.direction is direction
    single, pair = measured(form)
    if direction is Direction.BIASED:
        assert max(single.residual, pair.residual) > BIASED
    else:
        assert single.residual < EXACT
        assert (pair.residual < EXACT) == (direction is Direction.EXACT)


def test_the_best_of_a_group_may_take_away_more_than_there_is() -> None:
    """For rewards of two values every baseline of a group is affine in the response's own reward;
    its slope may be larger than that of the reward."""
    for factor, direction in ((1, Direction.REWEIGHTED), (2, Direction.BIASED)):
        form = text(
            f"R - {factor} * max[i] R", GOALS[0].format(POLICY[0]), "correct", (" in {0, 1}", "")
        )
        (estimator,) = facts_of(objdsl.loads(form).formula).estimators
        assert estimator.direction is direction
        assert (measured(form)[0].residual > BIASED) == (direction is Direction.BIASED)
